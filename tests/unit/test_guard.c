/* The guard on children of ours: what stops one is put off until guard_end. */
#include <check.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "inject/guard.h"
#include "target/proc.h"

#define PATIENCE_MS 5000

static struct guard guard;

struct child {
    pid_t pid;
    int from;
};

static struct child start(void (*fn)(int to))
{
    int ends[2];
    ck_assert_int_eq(pipe(ends), 0);
    pid_t pid = fork();
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        close(ends[0]);
        fn(ends[1]);
        _exit(0);
    }
    ck_assert_int_gt(pid, 0);
    close(ends[1]);
    return (struct child){pid, ends[0]};
}

static void tell(int to, int word)
{
    if (write(to, &word, sizeof word) != sizeof word)
        _exit(2);
}

/* What it tells within the patience, or -1. */
static int told(const struct child *c)
{
    struct pollfd end = {c->from, POLLIN, 0};
    int word;
    return poll(&end, 1, PATIENCE_MS) == 1 && read(c->from, &word, sizeof word) == sizeof word ? word : -1;
}

/* state 0: it has ended. */
static bool comes_to(pid_t pid, char state)
{
    struct timespec step = {0, 1000000};
    struct proc_stat st;
    for (int ms = 0; ms < PATIENCE_MS; ms++) {
        if (proc_stat_read(&st, pid, 0) < 0)
            return state == 0;
        if (st.state == state || (state == 0 && st.state == 'Z'))
            return true;
        nanosleep(&step, NULL);
    }
    return false;
}

static int exit_status(pid_t pid)
{
    int status;
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 100 + WTERMSIG(status);
}

static void is_stopped(int to)
{
    if (guard_start(&guard) < 0)
        _exit(3);
    for (int i = 0; i < 3; i++)
        raise(SIGSTOP);
    tell(to, 1);
    guard_end(&guard);
    tell(to, 2);
}

START_TEST(test_stopped)
{
    struct child c = start(is_stopped);
    ck_assert_int_eq(told(&c), 1);
    ck_assert(comes_to(c.pid, 'T'));
    kill(c.pid, SIGCONT);
    ck_assert_int_eq(told(&c), 2);
    ck_assert_int_eq(exit_status(c.pid), 0);
    close(c.from);
}
END_TEST

/* Until the guard has continued us. */
static void stop(void)
{
    struct timespec step = {0, 1000000};
    raise(SIGSTOP);
    for (int ms = 0; ms < PATIENCE_MS && !__atomic_load_n(&guard.stopped_at, __ATOMIC_SEQ_CST); ms++)
        nanosleep(&step, NULL);
}

static int go[2];

/* Who stops us and then thinks better of it has the last word. */
static void is_continued(int to)
{
    char byte;
    if (guard_start(&guard) < 0)
        _exit(3);
    stop();
    tell(to, 1);
    if (read(go[0], &byte, 1) != 1)
        _exit(4);
    guard_end(&guard);
    tell(to, 2);
}

START_TEST(test_continued)
{
    ck_assert_int_eq(pipe(go), 0);
    struct child c = start(is_continued);
    ck_assert_int_eq(told(&c), 1);
    kill(c.pid, SIGCONT);
    ck_assert_int_eq(write(go[1], "", 1), 1);
    ck_assert_int_eq(told(&c), 2);
    ck_assert_int_eq(exit_status(c.pid), 0);
    close(c.from);
}
END_TEST

/* A guard that ends early is not mistaken for whoever gets its number. */
static void is_ended(int to)
{
    struct proc_stat st;
    signal(SIGCHLD, SIG_IGN);
    if (guard_start(&guard) < 0)
        _exit(3);
    kill(guard.pid, SIGKILL);
    tell(to, comes_to(guard.pid, 'Z') && proc_stat_read(&st, guard.pid, 0) == 0 && st.state == 'Z');
    guard_end(&guard);
}

START_TEST(test_ended)
{
    struct child c = start(is_ended);
    ck_assert_int_eq(told(&c), 1);
    ck_assert_int_eq(exit_status(c.pid), 0);
    close(c.from);
}
END_TEST

static void is_not_stopped(int to)
{
    for (int i = 0; i < 20; i++) {
        if (guard_start(&guard) < 0)
            _exit(3);
        guard_end(&guard);
    }
    tell(to, 1);
}

START_TEST(test_not_stopped)
{
    struct child c = start(is_not_stopped);
    ck_assert_int_eq(told(&c), 1);
    ck_assert_int_eq(exit_status(c.pid), 0);
    close(c.from);
}
END_TEST

static void dies(int to)
{
    if (guard_start(&guard) < 0)
        _exit(3);
    tell(to, guard.pid);
    for (;;)
        pause();
}

/* The guard ends with its launcher, and keeps nothing of its open: the pipe has no writer then. */
START_TEST(test_dies)
{
    struct child c = start(dies);
    int pid = told(&c), word;
    ck_assert_int_gt(pid, 0);
    ck_assert(comes_to(pid, 'S'));
    kill(c.pid, SIGKILL);
    ck_assert_int_eq(exit_status(c.pid), 100 + SIGKILL);
    ck_assert_int_eq(read(c.from, &word, sizeof word), 0);
    ck_assert(comes_to(pid, 0));
    close(c.from);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("guard");
    TCase *t = tcase_create("guard");
    tcase_set_timeout(t, 30);
    tcase_add_test(t, test_stopped);
    tcase_add_test(t, test_continued);
    tcase_add_test(t, test_ended);
    tcase_add_test(t, test_not_stopped);
    tcase_add_test(t, test_dies);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
