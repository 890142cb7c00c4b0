/* Remote calls on a child of ours: the answer comes, the child never notices; and
 * when the tracer dies at any step, the child restores itself. */
#include <check.h>
#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/sem.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "target/remote.h"

/* Both stand in this program, and after fork in the child at the same place. */
__asm__(".text\n"
        "test_syscall_insn: syscall\n ret\n"
        "test_restore_rt: mov $15, %rax\n syscall\n");
extern const char test_syscall_insn[], test_restore_rt[];

#define NAP_NS 300000000

static double seconds(void)
{
    return (double)clock_mono_ns() / 1e9;
}

/* Sleeps, then checks all that could have been spoilt. Exit status 0: all well. */
static int child_sleep(void)
{
    sigset_t before, after;
    sigprocmask(SIG_SETMASK, NULL, &before);
    struct timespec nap = {0, NAP_NS};
    double t = seconds();
    int r = nanosleep(&nap, NULL);
    t = seconds() - t;
    sigprocmask(SIG_SETMASK, NULL, &after);
    return r != 0 ? 1 : t < 0.29 ? 2 : memcmp(&before, &after, 8) ? 3 : 0;
}

/* Computes with vector registers and checks the result. */
static int child_compute(void)
{
    double end = seconds() + 0.3, want[8], got[8];
    for (int round = 0; seconds() < end; round++) {
        for (int i = 0; i < 8; i++)
            got[i] = 1 + i;
        for (int k = 0; k < 1000; k++)
            for (int i = 0; i < 8; i++)
                got[i] = got[i] * 1.0000001 + 0.5;
        if (round > 0 && memcmp(want, got, sizeof got))
            return 4;
        memcpy(want, got, sizeof got);
    }
    return 0;
}

/* Waits in a call that a bare stop ends with EINTR. */
static int child_semop(void)
{
    int id = semget(IPC_PRIVATE, 1, 0600);
    struct sembuf take = {0, -1, 0};
    struct timespec nap = {0, NAP_NS};
    if (id < 0)
        return 0;
    int r = semtimedop(id, &take, 1, &nap), e = errno;
    semctl(id, 0, IPC_RMID);
    return r == -1 && e == EAGAIN ? 0 : 5;
}

static pid_t start(int (*fn)(void))
{
    pid_t pid = fork();
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY);
        _exit(fn());
    }
    ck_assert_int_gt(pid, 0);
    usleep(50000);
    return pid;
}

static int stop(struct tracee *t, struct remote *r, pid_t pid)
{
    struct tracee_stop s;
    struct user_regs_struct regs;
    tracee_init(t, pid);
    int ret = tracee_open_mem(t);
    if (ret == 0)
        ret = tracee_seize(t, false);
    if (ret == 0)
        ret = tracee_interrupt(t);
    if (ret == 0)
        ret = tracee_wait(t, clock_mono_ns() + 1000000000u, &s);
    if (ret == 0)
        ret = s.event == TRACEE_TRAP ? tracee_get_regs(t, &regs) : -EPROTO;
    if (ret == 0)
        remote_rewind(t, &regs);
    if (ret == 0)
        ret = remote_prepare(r, t, &regs, (raddr_t)test_syscall_insn, (raddr_t)test_restore_rt);
    return ret;
}

static int exit_status(pid_t pid)
{
    int status;
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 100 + WTERMSIG(status);
}

static int (*const kinds[])(void) = {child_sleep, child_compute, child_semop};
#define KINDS (int)(sizeof kinds / sizeof *kinds)

START_TEST(test_call)
{
    static struct remote r;
    struct tracee t;
    static const uint64_t none[6];
    const uint64_t map[6] = {0, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, (uint64_t)-1, 0};
    long value = 0;
    uint64_t deadline = clock_mono_ns() + 2000000000u;
    pid_t pid = start(kinds[_i]);
    ck_assert_int_eq(stop(&t, &r, pid), 0);
    ck_assert_int_eq(remote_begin(&r), 0);
    ck_assert_int_eq(remote_call(&r, SYS_getpid, none, deadline, &value), 0);
    ck_assert_int_eq(value, pid);
    ck_assert_int_eq(remote_call(&r, SYS_mmap, map, deadline, &value), 0);
    ck_assert(value > 0 && value % 4096 == 0);
    const uint64_t unmap[6] = {(uint64_t)value, 4096};
    ck_assert_int_eq(remote_call(&r, SYS_munmap, unmap, deadline, &value), 0);
    ck_assert_int_eq(value, 0);
    ck_assert_int_eq(remote_call(&r, SYS_close, (const uint64_t[6]){9999}, deadline, &value), 0);
    ck_assert_int_eq(value, -EBADF);
    ck_assert_int_eq(remote_end(&r), 0);
    ck_assert_int_eq(exit_status(pid), 0);
    tracee_release(&t);
}
END_TEST

START_TEST(test_end_without_begin)
{
    static struct remote r;
    struct tracee t;
    pid_t pid = start(child_sleep);
    ck_assert_int_eq(stop(&t, &r, pid), 0);
    ck_assert_int_eq(remote_end(&r), 0);
    ck_assert_int_eq(exit_status(pid), 0);
    tracee_release(&t);
}
END_TEST

START_TEST(test_killed_in_call)
{
    static struct remote r;
    struct tracee t;
    static const uint64_t none[6];
    long value;
    pid_t pid = start(child_sleep);
    ck_assert_int_eq(stop(&t, &r, pid), 0);
    ck_assert_int_eq(remote_begin(&r), 0);
    kill(pid, SIGKILL);
    ck_assert_int_eq(remote_call(&r, SYS_getpid, none, clock_mono_ns() + 1000000000u, &value), -ESRCH);
    ck_assert_int_eq(remote_end(&r), -ESRCH);
    tracee_release(&t);
}
END_TEST

/* After a call that was late the thread stands, and it is known whether the call was made. */
START_TEST(test_late)
{
    static struct remote r;
    struct tracee t;
    static const uint64_t none[6];
    const uint64_t map[6] = {0, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, (uint64_t)-1, 0};
    long value = 0;
    pid_t pid = start(child_sleep);
    ck_assert_int_eq(stop(&t, &r, pid), 0);
    ck_assert_int_eq(remote_begin(&r), 0);
    for (int i = 0; i < 50; i++) {
        int ret = remote_call(&r, SYS_mmap, map, 0, &value);
        ck_assert(!r.unsettled && (ret == 0 || ret == -ETIMEDOUT));
        const uint64_t unmap[6] = {(uint64_t)value, 4096};
        if (ret == 0)
            ck_assert_int_eq(remote_call(&r, SYS_munmap, unmap, clock_mono_ns() + 1000000000u, &value), 0);
    }
    ck_assert_int_eq(remote_call(&r, SYS_pause, none, clock_mono_ns() + 20000000u, &value), -ETIMEDOUT);
    ck_assert_int_eq(remote_call(&r, SYS_getpid, none, clock_mono_ns() + 1000000000u, &value), 0);
    ck_assert_int_eq(value, pid);
    ck_assert_int_eq(remote_end(&r), 0);
    ck_assert_int_eq(exit_status(pid), 0);
    tracee_release(&t);
}
END_TEST

static int child_sleep_long(void)
{
    struct timespec nap = {2, 0};
    return nanosleep(&nap, NULL);
}

/* One that no interrupt ends is not taken for one that was not made, nor its thread for dead. */
START_TEST(test_unsettled)
{
    static struct remote r;
    struct tracee t;
    static const uint64_t none[6];
    const uint64_t vfork_copy[6] = {CLONE_VFORK | SIGCHLD};
    long value = 0;
    pid_t pid = start(child_sleep_long);
    ck_assert_int_eq(stop(&t, &r, pid), 0);
    ck_assert_int_eq(remote_begin(&r), 0);
    ck_assert_int_eq(remote_call(&r, SYS_clone, vfork_copy, clock_mono_ns() + 200000000u, &value), -ETIMEDOUT);
    ck_assert(r.unsettled);
    ck_assert_int_eq(remote_call(&r, SYS_getpid, none, clock_mono_ns() + 1000000000u, &value), -ETIMEDOUT);
    kill(pid, SIGKILL);
    ck_assert_int_eq(remote_end(&r), -ESRCH);
    tracee_release(&t);
}
END_TEST

/* A SIGSTOP that comes meanwhile stops the process afterwards, wherever it was met. */
START_TEST(test_stopped_meanwhile)
{
    static struct remote r;
    struct tracee t;
    static const uint64_t none[6];
    long value;
    int status;
    pid_t pid = start(child_sleep);
    ck_assert_int_eq(stop(&t, &r, pid), 0);
    ck_assert_int_eq(remote_begin(&r), 0);
    kill(pid, SIGSTOP);
    if (_i % 2)
        (void)!remote_call(&r, SYS_getpid, none, 0, &value);
    else
        (void)!tracee_cont(&t, 0); /* as after a call that timed out */
    usleep(_i / 2 * 500);
    ck_assert_int_eq(remote_end(&r), 0);
    ck_assert_int_eq(waitpid(pid, &status, WUNTRACED), pid);
    ck_assert(WIFSTOPPED(status) && WSTOPSIG(status) == SIGSTOP);
    kill(pid, SIGCONT);
    ck_assert_int_eq(exit_status(pid), 0);
    tracee_release(&t);
}
END_TEST

static void must(const char *step, int ret)
{
    if (ret < 0) {
        fprintf(stderr, "the tracer's %s: %s\n", step, strerror(-ret));
        _exit(1);
    }
}

/* A tracer that ends without a word after `steps` steps. */
static void tracer(pid_t pid, int steps)
{
    static struct remote r;
    struct tracee t;
    static const uint64_t none[6];
    long value;
    must("stop", stop(&t, &r, pid));
    if (steps > 0)
        must("begin", remote_begin(&r));
    if (steps > 1)
        must("arm", remote_arm(&r, SYS_getppid, none));
    for (int i = 2; i < steps; i++) {
        must("call", remote_call(&r, SYS_getpid, none, clock_mono_ns() + 1000000000u, &value));
        must("answer", value == pid ? 0 : -EBADMSG);
    }
    kill(getpid(), SIGKILL);
}

/* The child sleeps on, with its mask and vector state; sigreturn ends restart
 * blocks, so that its sleep may begin anew, which is not shorter. */
START_TEST(test_tracer_dies)
{
    pid_t pid = start(kinds[_i % KINDS]), other = fork();
    if (other == 0)
        tracer(pid, _i / KINDS);
    ck_assert_int_eq(exit_status(other), 100 + SIGKILL);
    ck_assert_int_eq(exit_status(pid), 0);
}
END_TEST

START_TEST(test_classify)
{
    static const struct {
        int status;
        enum tracee_event event;
        int sig;
    } w[] = {
        {0x0000, TRACEE_GONE, 0},
        {SIGKILL, TRACEE_GONE, 0},
        {128 << 16 | SIGTRAP << 8 | 0x7f, TRACEE_TRAP, 0},
        {128 << 16 | SIGSTOP << 8 | 0x7f, TRACEE_GROUP_STOP, SIGSTOP},
        {128 << 16 | SIGTSTP << 8 | 0x7f, TRACEE_GROUP_STOP, SIGTSTP},
        {(SIGTRAP | 0x80) << 8 | 0x7f, TRACEE_SYSCALL, 0},
        {3 << 16 | SIGTRAP << 8 | 0x7f, TRACEE_CLONE, 0},
        {6 << 16 | SIGTRAP << 8 | 0x7f, TRACEE_OTHER, 0},
        {SIGTRAP << 8 | 0x7f, TRACEE_SIGNAL, SIGTRAP},
        {SIGALRM << 8 | 0x7f, TRACEE_SIGNAL, SIGALRM},
    };
    for (size_t i = 0; i < sizeof w / sizeof *w; i++) {
        struct tracee_stop s = tracee_classify(w[i].status);
        ck_assert_msg(s.event == w[i].event && s.sig == w[i].sig, "status %#x", w[i].status);
    }
}
END_TEST

int main(void)
{
    Suite *s = suite_create("remote");
    TCase *t = tcase_create("remote");
    tcase_set_timeout(t, 30);
    tcase_add_loop_test(t, test_call, 0, KINDS);
    tcase_add_test(t, test_end_without_begin);
    tcase_add_test(t, test_killed_in_call);
    tcase_add_test(t, test_late);
    tcase_add_test(t, test_unsettled);
    tcase_add_loop_test(t, test_stopped_meanwhile, 0, 8);
    tcase_add_loop_test(t, test_tracer_dies, 0, 5 * KINDS);
    tcase_add_test(t, test_classify);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
