/* src/inject/sweep.c's account of a thunk, on one of this process's own. */
#include <check.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "boot.h"
#include "inject/inject.h"
#include "inject/ours.h"
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

int main(void)
{
    Suite *s = suite_create("sweep");
    TCase *t = tcase_create("sweep");
    tcase_add_test(t, test_idle);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
