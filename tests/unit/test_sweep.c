/* src/inject/sweep.c's account of a thunk, on one of this process's own, and what it takes
 * for a pointer into one, in a child that waits. */
#include <check.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "boot.h"
#include "inject/inject.h"
#include "inject/ours.h"
#include "skip.h"
#include "thunk_page.h"

static struct thunk *make_thunk(void)
{
    unsigned char *p = mmap(NULL, OURS_THUNK_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ck_assert_ptr_ne(p, MAP_FAILED);
    ck_assert_int_eq(mprotect(p, MP_PAGE, PROT_READ | PROT_EXEC), 0);
    struct thunk *t = (struct thunk *)(void *)(p + MP_PAGE);
    memcpy(t->magic, THUNK_MAGIC, sizeof t->magic);
    t->entry = (uint64_t)(uintptr_t)p;
    t->owner_pid = getpid();
    return t;
}

/* Idle is one that is inert and in which nothing is, but for calls that a fork has copied. */
START_TEST(test_idle)
{
    struct thunk *t = make_thunk();
    ck_assert_int_eq(inject_idle_thunks(getpid()), 1);
    t->inflight = 1;
    ck_assert_int_eq(inject_idle_thunks(getpid()), 0);
    t->owner_pid = getpid() + 1;
    ck_assert_int_eq(inject_idle_thunks(getpid()), 1);
    t->enter = t->entry;
    ck_assert_int_eq(inject_idle_thunks(getpid()), 0);
}
END_TEST

#define BIG_STACK (5ull << 30) /* more than is searched */
#define GUARD_INSTALL 102      /* MADV_GUARD_INSTALL, Linux 6.13 */
#define BEHIND 4               /* pages */

/* A child's ways to keep a thunk's trace function. */
static void wait_for_ever(int ready)
{
    (void)!write(ready, "", 1);
    for (;;)
        pause();
}

static void keep_on_stack(struct thunk *t, int ready)
{
    volatile uint64_t word = t->trace_entry;
    wait_for_ever(ready);
    (void)word;
}

static void keep_on_stack_traced(struct thunk *t, int ready)
{
    t->flags = THUNK_TRACED;
    keep_on_stack(t, ready);
}

static void *wait_on_big_stack(void *arg)
{
    wait_for_ever(*(int *)arg);
    return NULL;
}

/* Most of a stack is below where its thread waits, and not searched. */
static void wait_beside_big_stack(struct thunk *t, int ready)
{
    void *stack = mmap(NULL, BIG_STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    pthread_attr_t attr;
    pthread_t thread;
    (void)t;
    pthread_attr_init(&attr);
    if (stack == MAP_FAILED || pthread_attr_setstack(&attr, stack, BIG_STACK) || pthread_create(&thread, &attr, wait_on_big_stack, &ready))
        _exit(1);
    for (;;)
        pause();
}

#define POOL (16u << 20)

/* A thread that waits in the upper part of a block, or spins there with `word` in hand. */
struct on_pool {
    unsigned char *stack;
    size_t size;
    uint64_t word;
    int ready;
    bool spins;
};

static void *stay_on_pool(void *arg)
{
    const struct on_pool *p = arg;
    volatile uint64_t word = p->word;
    (void)!write(p->ready, "", 1);
    while (p->spins)
        ;
    while (word != 1)
        pause();
    return NULL;
}

static void run_on_pool(struct on_pool *p)
{
    pthread_attr_t attr;
    pthread_t thread;
    pthread_attr_init(&attr);
    if (pthread_attr_setstack(&attr, p->stack, p->size) || pthread_create(&thread, &attr, stay_on_pool, p))
        _exit(1);
}

static unsigned char *make_pool(void)
{
    unsigned char *p = mmap(NULL, POOL, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED)
        _exit(1);
    return p;
}

static void pause_for_ever(void)
{
    for (;;)
        pause();
}

/* What lies in the same mapping as a stack, below it, is no dead part of that. */
static void keep_below_stack(struct thunk *t, int ready)
{
    unsigned char *pool = make_pool();
    struct on_pool p = {.stack = pool + POOL / 2, .size = POOL / 2, .ready = ready};
    memcpy(pool, &t->trace_entry, sizeof t->trace_entry);
    run_on_pool(&p);
    pause_for_ever();
}

/* Nor is another stack, whose thread runs. */
static void keep_on_running_stack(struct thunk *t, int ready)
{
    unsigned char *pool = make_pool();
    int unheard[2];
    struct on_pool upper = {.stack = pool + POOL / 2, .size = POOL / 2, .ready = ready};
    if (pipe(unheard))
        _exit(1);
    struct on_pool lower = {.stack = pool, .size = POOL / 2, .word = t->trace_entry, .ready = unheard[1], .spins = true};
    t->flags = THUNK_TRACED;
    run_on_pool(&lower);
    char byte;
    (void)!read(unheard[0], &byte, 1);
    lower.word = 0;
    run_on_pool(&upper);
    pause_for_ever();
}

/* What is above a stack is data, too, where a stale word on the stack would not count. */
static void keep_above_stack(struct thunk *t, int ready)
{
    unsigned char *pool = make_pool();
    struct on_pool p = {.stack = pool, .size = POOL / 2, .ready = ready};
    memcpy(pool + POOL - 8, &t->trace_entry, sizeof t->trace_entry);
    run_on_pool(&p);
    pause_for_ever();
}

static void keep_behind_guard(struct thunk *t, int ready)
{
    unsigned char *p = mmap(NULL, (BEHIND + 1) * MP_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED || madvise(p, MP_PAGE, GUARD_INSTALL))
        _exit(1); /* an older kernel */
    memcpy(p + BEHIND * MP_PAGE, &t->trace_entry, sizeof t->trace_entry);
    wait_for_ever(ready);
}

/* What a sweep says of the thunk of such a child; NULL when the child can't be had. Once in a
 * process: what has been read of one thunk is in the memory of the next child. */
static const char *swept(void (*keep)(struct thunk *t, int ready))
{
    static char text[1 << 16];
    struct mp_failure f = {0};
    uint64_t pause_ns;
    char byte;
    int ready[2];
    ck_assert_int_eq(pipe(ready), 0);
    pid_t pid = fork();
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        struct thunk *t = make_thunk();
        t->trace_entry = t->entry + 64;
        keep(t, ready[1]);
        _exit(1);
    }
    close(ready[1]);
    bool is_there = read(ready[0], &byte, 1) == 1;
    close(ready[0]);
    FILE *log = fmemopen(text, sizeof text, "w");
    if (is_there)
        (void)!inject_sweep(pid, log, &pause_ns, &f);
    fclose(log);
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    return is_there ? text : NULL;
}

/* A stale word on a stack is no reason to keep a thunk, but where its trace function may have been kept. */
START_TEST(test_stack)
{
    ck_assert_ptr_nonnull(strstr(swept(keep_on_stack), "is unreachable"));
}
END_TEST

START_TEST(test_stack_traced)
{
    ck_assert_ptr_nonnull(strstr(swept(keep_on_stack_traced), "may still be reached"));
}
END_TEST

START_TEST(test_big_stack)
{
    const char *text = swept(wait_beside_big_stack);
    ck_assert_ptr_nonnull(text);
    ck_assert_ptr_nonnull(strstr(text, "is unreachable"));
}
END_TEST

START_TEST(test_below_stack)
{
    ck_assert_ptr_nonnull(strstr(swept(keep_below_stack), "may still be reached"));
}
END_TEST

START_TEST(test_running_stack)
{
    ck_assert_ptr_nonnull(strstr(swept(keep_on_running_stack), "may still be reached"));
}
END_TEST

START_TEST(test_above_stack)
{
    ck_assert_ptr_nonnull(strstr(swept(keep_above_stack), "may still be reached"));
}
END_TEST

START_TEST(test_guard)
{
    const char *text = swept(keep_behind_guard);
    if (!text) {
        skip("test_guard", "the kernel has no guard regions");
        return;
    }
    ck_assert_ptr_nonnull(strstr(text, "may still be reached"));
}
END_TEST

int main(void)
{
    Suite *s = suite_create("sweep");
    TCase *t = tcase_create("sweep");
    tcase_add_test(t, test_idle);
    tcase_add_test(t, test_stack);
    tcase_add_test(t, test_stack_traced);
    tcase_add_test(t, test_big_stack);
    tcase_add_test(t, test_below_stack);
    tcase_add_test(t, test_running_stack);
    tcase_add_test(t, test_above_stack);
    tcase_add_test(t, test_guard);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
