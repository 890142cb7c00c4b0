/* src/inject/suspects.c, on threads of this process. */
#include <check.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "inject/suspects.h"

enum { COMPUTE, UNBLOCK, WAIT, END };

struct one {
    pthread_t thread;
    int pipe[2];
    atomic_int tid, does;
};

static void block(int how)
{
    sigset_t all;
    sigfillset(&all);
    ck_assert_int_eq(pthread_sigmask(how, &all, NULL), 0);
}

static void *run(void *arg)
{
    struct one *o = arg;
    char byte;
    block(SIG_BLOCK);
    o->tid = (int)syscall(SYS_gettid);
    while (o->does == COMPUTE)
        ;
    if (o->does == UNBLOCK)
        block(SIG_UNBLOCK);
    o->tid = -o->tid;
    while (o->does == UNBLOCK)
        ;
    if (o->does == WAIT)
        ck_assert_int_ge(read(o->pipe[0], &byte, 1), 0);
    return NULL;
}

static void begin(struct one *o)
{
    *o = (struct one){.does = COMPUTE};
    ck_assert_int_eq(pipe(o->pipe), 0);
    ck_assert_int_eq(pthread_create(&o->thread, NULL, run, o), 0);
    while (o->tid <= 0)
        usleep(1000);
}

static pid_t tid_of(const struct one *o)
{
    return abs(o->tid);
}

static bool runs(const struct one *o)
{
    char path[64], first = 0;
    snprintf(path, sizeof path, "/proc/self/task/%d/syscall", tid_of(o));
    FILE *f = fopen(path, "r");
    ck_assert_ptr_nonnull(f);
    ck_assert_uint_eq(fread(&first, 1, 1, f), 1);
    fclose(f);
    return first == 'r';
}

static void tell(struct one *o, int does)
{
    o->does = does;
    while (o->tid >= 0 || (does == WAIT && runs(o)))
        usleep(1000);
}

static void end(struct one *o)
{
    o->does = END;
    close(o->pipe[1]);
    pthread_join(o->thread, NULL);
    while (syscall(SYS_tgkill, getpid(), tid_of(o), 0) == 0) /* joined, and not gone yet */
        usleep(1000);
    close(o->pipe[0]);
}

static void look(struct suspects *s, unsigned calm, size_t count)
{
    suspects_look(s, getpid());
    ck_assert_uint_eq(s->calm, calm);
    ck_assert_uint_eq(s->count, count);
}

static void none(bool unused)
{
    struct suspects s = {.unused = unused};
    look(&s, 1, 0);
    look(&s, 2, 0);
}

START_TEST(test_none)
{
    none(false);
    none(true);
}
END_TEST

START_TEST(test_acquitted)
{
    struct one one;
    struct suspects used = {0}, unused = {.unused = true};
    begin(&one);
    look(&used, 0, 1);
    look(&unused, 0, 1);
    look(&used, 0, 1);
    look(&unused, 0, 1);
    tell(&one, UNBLOCK);
    look(&used, 1, 0);
    look(&unused, 1, 0);
    end(&one);
    look(&used, 2, 0);
    look(&unused, 2, 0);
}
END_TEST

/* Before it made a step it can't be in a system call. */
START_TEST(test_waits)
{
    struct one one;
    struct suspects used = {0}, unused = {.unused = true};
    begin(&one);
    look(&used, 0, 1);
    look(&unused, 0, 1);
    tell(&one, WAIT);
    look(&used, 0, 1);
    look(&unused, 1, 0);
    end(&one);
}
END_TEST

/* There is always one, and each ends. */
START_TEST(test_handed_over)
{
    struct one one[2];
    struct suspects used = {0}, unused = {.unused = true};
    begin(&one[0]);
    look(&used, 0, 1);
    look(&unused, 0, 1);
    for (unsigned i = 1; i < 4; i++) {
        begin(&one[i % 2]);
        end(&one[(i - 1) % 2]);
        look(&used, 0, 1);
        look(&unused, i, 0);
    }
    end(&one[1]);
    look(&used, 0, 0); /* it may have handed over while we looked */
    look(&used, 1, 0);
}
END_TEST

START_TEST(test_too_many)
{
    struct one one, more;
    struct suspects s = {.unused = true};
    begin(&one);
    begin(&more);
    for (s.count = 0; s.count < SUSPECTS_MAX; s.count++)
        s.tid[s.count] = one.tid;
    look(&s, 0, SUSPECTS_MAX);
    tell(&one, UNBLOCK);
    look(&s, 0, 1); /* the one for which there was no room */
    end(&more);
    look(&s, 1, 0);
    end(&one);
}
END_TEST

START_TEST(test_nobody)
{
    struct suspects s = {0};
    pid_t child = fork();
    if (child == 0)
        _exit(0);
    waitpid(child, NULL, 0);
    suspects_look(&s, child);
    ck_assert_uint_eq(s.calm, 0);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("suspects");
    TCase *t = tcase_create("suspects");
    tcase_set_timeout(t, 60);
    tcase_add_test(t, test_none);
    tcase_add_test(t, test_acquitted);
    tcase_add_test(t, test_waits);
    tcase_add_test(t, test_handed_over);
    tcase_add_test(t, test_too_many);
    tcase_add_test(t, test_nobody);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
