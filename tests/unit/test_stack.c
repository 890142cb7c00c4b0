/* src/target/stack.c, on this process's own threads and on what only looks like one. */
#include <check.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "target/stack.h"

#define PAGES (64 * 4096)
#define AT (32 * 4096)

struct seen {
    struct stack stack;
    uintptr_t lo, hi, descriptor;
    bool found;
};

/* By libc's own account; the guard is below what that tells. */
static void *look(void *arg)
{
    struct seen *s = arg;
    pthread_attr_t attr;
    void *lo;
    size_t size;
    if (pthread_getattr_np(pthread_self(), &attr) == 0 && pthread_attr_getstack(&attr, &lo, &size) == 0) {
        s->lo = (uintptr_t)lo;
        s->hi = s->lo + size;
    }
    s->descriptor = (uintptr_t)pthread_self(); /* its address, in glibc */
    s->found = stack_find(getpid(), (raddr_t)(uintptr_t)&attr, s->hi, &s->stack);
    return NULL;
}

static void on_thread(struct seen *s, void *stack, size_t size)
{
    pthread_attr_t attr;
    pthread_t thread;
    pthread_attr_init(&attr);
    if (stack)
        ck_assert_int_eq(pthread_attr_setstack(&attr, stack, size), 0);
    ck_assert_int_eq(pthread_create(&thread, &attr, look, s), 0);
    pthread_join(thread, NULL);
}

START_TEST(test_libc_stack)
{
    struct seen s = {0};
    on_thread(&s, NULL, 0);
    ck_assert(s.found);
    ck_assert_uint_le(s.stack.lo, s.lo);
    ck_assert_uint_ge(s.stack.lo, s.lo - 65536);
    ck_assert_uint_eq(s.stack.hi, s.descriptor);
}
END_TEST

START_TEST(test_own_stack)
{
    struct seen s = {0};
    unsigned char *p = mmap(NULL, PAGES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    on_thread(&s, p + AT, PAGES - AT);
    ck_assert(s.found);
    ck_assert_uint_eq(s.stack.lo, (uintptr_t)p + AT);
    ck_assert_uint_eq(s.stack.hi, s.descriptor);
    ck_assert_uint_le(s.stack.hi, (uintptr_t)p + PAGES);
}
END_TEST

/* Words that point to themselves as a descriptor's do, and a word pair behind them. */
static const struct {
    int64_t lo; /* from where the pages begin; a number when it is less than 0 */
    uint64_t size;
    bool found;
} told[] = {
    {0, PAGES, true},
    {0, PAGES + 4096, false},        /* beyond the mapping */
    {0, AT, false},                  /* ends before it */
    {AT - 4096, PAGES - AT, false},  /* does not hold the stack pointer */
    {-1, UINT64_MAX, false},
    {0, UINT64_MAX, false},
    {-3, AT, false},
};

START_TEST(test_told)
{
    unsigned char *p = mmap(NULL, PAGES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    raddr_t at = (raddr_t)(uintptr_t)p + PAGES - 4096;
    uint64_t *d = (uint64_t *)(void *)(p + PAGES - 4096);
    struct stack s;
    d[0] = d[2] = at;
    d[200] = told[_i].lo < 0 ? (uint64_t)-told[_i].lo : (uint64_t)(uintptr_t)p + (uint64_t)told[_i].lo;
    d[201] = told[_i].size;
    ck_assert_int_eq(stack_find(getpid(), (raddr_t)(uintptr_t)p + 4096, at + 4096, &s), told[_i].found);
    d[2] = 0;
    ck_assert(!stack_find(getpid(), (raddr_t)(uintptr_t)p + 4096, at + 4096, &s));
    munmap(p, PAGES);
}
END_TEST

START_TEST(test_unreadable)
{
    unsigned char *p = mmap(NULL, PAGES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct stack s;
    ck_assert(!stack_find(getpid(), (raddr_t)(uintptr_t)p, (raddr_t)(uintptr_t)p + PAGES, &s));
    ck_assert(!stack_find(getpid(), (raddr_t)(uintptr_t)p, (raddr_t)(uintptr_t)p, &s));
    ck_assert(!stack_find(getpid(), UINT64_MAX, 4096, &s));
}
END_TEST

int main(void)
{
    Suite *s = suite_create("stack");
    TCase *t = tcase_create("stack");
    tcase_add_test(t, test_libc_stack);
    tcase_add_test(t, test_own_stack);
    tcase_add_loop_test(t, test_told, 0, sizeof told / sizeof *told);
    tcase_add_test(t, test_unreadable);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
