/* Borrowing threads of a child whose threads come and go: this program, as a child of its own. */
#include <check.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "inject/borrow.h"
#include "target/proc.h"

#define EXEC_NS 4000000000ull /* of tries */
#define EXEC_TRY_MS 3
#define LOOKS 20000 /* of a microsecond or less */

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

/* --- what became of it ----------------------------------------------------------- *
 * The child has our libc where we have it, and so its `syscall`: the program stays the same. */

struct change {
    struct inject_plan plan;
    unsigned reads, early;
    bool changes, gone;
};

static struct change *looking; /* process_vm_readv, below, has no argument of ours */

static uint64_t find_syscall(void)
{
    static const unsigned char insn[2] = {0x0f, 0x05};
    return (uint64_t)(uintptr_t)memmem((const void *)(uintptr_t)syscall, 64, insn, sizeof insn);
}

static pid_t fork_pausing(void)
{
    pid_t pid = fork();
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        for (;;)
            pause();
    }
    return pid;
}

static void end_child(pid_t pid)
{
    kill(pid, SIGKILL);
    ck_assert_int_eq(waitpid(pid, NULL, 0), pid);
}

/* It stops only while it is looked for what became of the process. */
static void change_beside_stuck(void *arg)
{
    struct change *c = arg;
    struct borrow b = {.plan = &c->plan, .wake_fd = -1, .stuck_count = 1};
    tracee_init(&b.stuck[0], c->plan.facts.pid);
    ck_assert_int_eq(tracee_seize(&b.stuck[0], false), 0);
    ck_assert_int_eq(tracee_interrupt(&b.stuck[0]), 0);
    c->changes = borrow_changes(&c->plan);
    borrow_unstick(&b);
    c->gone = b.stuck_count == 0;
}

START_TEST(test_stop_is_left)
{
    struct change c = {.plan = {.facts = {.pid = fork_pausing()}, .syscall_insn = find_syscall()}};
    ck_assert_int_eq(borrow_run(change_beside_stuck, &c), 0);
    ck_assert(!c.changes);
    ck_assert_msg(c.gone, "the thread's stop was taken from it: it stands");
    end_child(c.plan.facts.pid);
}
END_TEST

ssize_t __real_process_vm_readv(pid_t pid, const struct iovec *to, unsigned long to_count, const struct iovec *from,
                                unsigned long from_count, unsigned long flags);
ssize_t __wrap_process_vm_readv(pid_t pid, const struct iovec *to, unsigned long to_count, const struct iovec *from,
                                unsigned long from_count, unsigned long flags);

ssize_t __wrap_process_vm_readv(pid_t pid, const struct iovec *to, unsigned long to_count, const struct iovec *from,
                                unsigned long from_count, unsigned long flags)
{
    siginfo_t ended = {.si_pid = 0};
    if (looking) {
        looking->reads++;
        looking->early += waitid(P_ALL, 0, &ended, WEXITED | WNOHANG | WNOWAIT | __WALL | __WNOTHREAD) == 0 && ended.si_pid > 0;
    }
    return __real_process_vm_readv(pid, to, to_count, from, from_count, flags);
}

/* Whoever is traced leaves. */
static void leave_if_traced(pid_t tid)
{
    struct proc_status st;
    while (proc_status_read(&st, getpid(), tid) == 0 && st.tracer == 0)
        ;
    syscall(SYS_exit, 0);
}

static void *second(void *leaves)
{
    if (leaves)
        leave_if_traced((pid_t)syscall(SYS_gettid));
    for (;;)
        pause();
    return NULL;
}

/* A process of two threads, one of which leaves as soon as it is traced. */
static pid_t fork_leaving(bool leader)
{
    pthread_t thread;
    pid_t pid = fork();
    if (pid != 0)
        return pid;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (pthread_create(&thread, NULL, second, leader ? NULL : &thread) == 0 && leader)
        leave_if_traced(getpid());
    for (;;)
        pause();
    return 0;
}

static void change_beside_dead(void *arg)
{
    struct change *c = arg;
    struct tracee t;
    siginfo_t ended;
    pid_t tid;
    while (!(tid = second_thread(c->plan.facts.pid)))
        ;
    tracee_init(&t, tid);
    ck_assert_int_eq(tracee_seize(&t, false), 0);
    ck_assert_int_eq(waitid(P_PID, (id_t)tid, &ended, WEXITED | WNOWAIT | __WALL), 0);
    looking = c;
    c->changes = borrow_changes(&c->plan);
    looking = NULL;
}

/* Reading its memory may wait for an exec, which waits for what is to be waited for. */
START_TEST(test_dead_first)
{
    struct change c = {.plan = {.facts = {.pid = fork_leaving(false)}, .syscall_insn = find_syscall()}};
    ck_assert_int_eq(borrow_run(change_beside_dead, &c), 0);
    ck_assert(!c.changes);
    ck_assert_uint_gt(c.reads, 0);
    ck_assert_uint_eq(c.early, 0);
    end_child(c.plan.facts.pid);
}
END_TEST

static void wait_in_looks(void *arg)
{
    struct change *c = arg;
    struct tracee_stop stop;
    struct tracee t;
    struct proc_stat st;
    tracee_init(&t, c->plan.facts.pid);
    ck_assert_int_eq(tracee_seize(&t, false), 0);
    do
        ck_assert_int_eq(proc_stat_read(&st, c->plan.facts.pid, 0), 0);
    while (st.state != 'Z');
    for (int i = 0; i < LOOKS && !c->gone; i++)
        c->gone = tracee_wait(&t, 0, &stop) == 0 && stop.event == TRACEE_GONE;
}

/* That a first thread is a zombie is seen by one who never waits for long, too. */
START_TEST(test_zombie_in_looks)
{
    struct change c = {.plan = {.facts = {.pid = fork_leaving(true)}}};
    ck_assert_int_eq(borrow_run(wait_in_looks, &c), 0);
    ck_assert(c.gone);
    end_child(c.plan.facts.pid);
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
    tcase_add_test(t, test_stop_is_left);
    tcase_add_test(t, test_dead_first);
    tcase_add_test(t, test_zombie_in_looks);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
