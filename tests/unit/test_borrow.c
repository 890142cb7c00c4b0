/* Borrowing threads of a child whose threads come and go: this program, as a child of its own. */
#include <check.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "inject/borrow.h"
#include "target/proc.h"

#define EXEC_NS 4000000000ull /* of tries */
#define EXEC_TRY_MS 3

static void *exec_again(void *unused)
{
    struct timespec ts = {0, (long)(clock_mono_ns() / 1000 % 300) * 1000};
    nanosleep(&ts, NULL);
    execl("/proc/self/exe", "test_borrow", "exec", NULL);
    return unused;
}

/* A program whose second thread executes it again. */
static int exec_for_ever(void)
{
    pthread_t thread;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY);
    if (pthread_create(&thread, NULL, exec_again, NULL) == 0)
        for (;;)
            pause();
    return 1;
}

/* One that is not the leader, or 0. */
static pid_t second_thread(pid_t pid)
{
    pid_t *tids, found = 0;
    size_t n;
    if (proc_tasks(pid, &tids, &n) < 0)
        return 0;
    for (size_t i = 0; i < n; i++)
        found = tids[i] != pid ? tids[i] : found;
    free(tids);
    return found;
}

struct exec_try {
    struct inject_plan *plan;
    struct mp_failure f;
    pid_t tracer; /* of the leader, afterwards */
    int ret;
};

static void exec_try(void *arg)
{
    struct exec_try *e = arg;
    struct proc_status st;
    struct borrow b = {.plan = e->plan, .wake_fd = -1};
    pid_t pid = e->plan->facts.pid, tid = second_thread(pid);
    if (tid <= 0)
        return;
    e->ret = borrow_one(&b, tid, EXEC_TRY_MS, false, &e->f);
    /* One that has not stopped by then goes free with this thread's end. */
    if (b.stuck_count == 0 && proc_status_read(&st, pid, 0) == 0)
        e->tracer = st.tracer;
    borrow_release(&b);
}

/* The kernel gives the thread that was seized the leader's id: it is let go of at once, and it is said
 * what became of it. The plan's `syscall` is nowhere, so that whatever stands has executed. */
START_TEST(test_exec_while_seized)
{
    uint64_t end = clock_mono_ns() + EXEC_NS;
    pid_t pid = fork();
    if (pid == 0) {
        execl("/proc/self/exe", "test_borrow", "exec", NULL);
        _exit(1);
    }
    struct inject_plan plan = {.facts = {.pid = pid, .pidfd = (int)syscall(SYS_pidfd_open, pid, 0)}};
    unsigned execed = 0;
    while (clock_mono_ns() < end) {
        struct exec_try e = {.plan = &plan};
        ck_assert_int_eq(borrow_run(exec_try, &e), 0);
        ck_assert_msg(e.ret == 0 || e.f.code == MP_E_TARGET_EXECED || e.f.code == MP_E_NO_THREAD, "%s", e.f.message);
        ck_assert_msg(e.tracer == 0, "it is traced after \"%s\"", e.f.message);
        execed += e.ret < 0 && e.f.code == MP_E_TARGET_EXECED;
    }
    ck_assert_uint_gt(execed, 0);
    kill(pid, SIGKILL);
    ck_assert_int_eq(waitpid(pid, NULL, 0), pid);
    close(plan.facts.pidfd);
}
END_TEST

int main(int argc, char **argv)
{
    if (argc > 1 && !strcmp(argv[1], "exec"))
        return exec_for_ever();
    Suite *s = suite_create("borrow");
    TCase *t = tcase_create("borrow");
    tcase_set_timeout(t, 60);
    tcase_add_test(t, test_exec_while_seized);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
