/* The guard. See guard.h. It has our memory, and so our errno: it makes its system calls itself. */
#include "inject/guard.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define GUARD_LOOK_NS 5000000 /* between two looks; most pauses are over before the first */
#define GUARD_FDS_MAX 1024    /* closed where the kernel has no close_range(2): before 5.9 */

/* Killed wherever it stands, on a stack within its parent's: what AddressSanitizer notes of its
 * frames would stay noted for the parent's. */
#define GUARD_UNNOTED __attribute__((no_sanitize("address")))

#ifndef SYS_close_range
#define SYS_close_range 436
#endif

/* How often somebody other than the guard has continued us, which takes back that we were stopped. */
static unsigned guard_conts;
static pid_t guard_pid;

static void guard_on_cont(int sig, siginfo_t *info, void *context)
{
    (void)sig;
    (void)context;
    if (info->si_pid != __atomic_load_n(&guard_pid, __ATOMIC_SEQ_CST))
        __atomic_add_fetch(&guard_conts, 1, __ATOMIC_SEQ_CST);
}

static long guard_call(long nr, long a, long b, long c, long d)
{
    long r;
    register long r10 __asm__("r10") = d;
    __asm__ volatile("syscall" : "=a"(r) : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10) : "rcx", "r11", "memory");
    return r;
}

/* True when the process whose stat this is has been stopped by a signal (proc(5)). */
GUARD_UNNOTED static bool guard_is_stopped(int stat_fd)
{
    char text[512];
    long n = guard_call(SYS_pread64, stat_fd, (long)text, sizeof text - 1, 0);
    if (n <= 0)
        return false;
    text[n] = 0;
    const char *end = strrchr(text, ')');
    return end && end[1] == ' ' && end[2] == 'T';
}

/* A stop for the launcher's job must not be one for the guard: a session of its own. And what
 * the launcher has open, a reader's pipe say, is not to be kept open by it. */
GUARD_UNNOTED static int guard_settle(const struct guard *g, pid_t launcher)
{
    const uint64_t all = ~0ull;
    guard_call(SYS_rt_sigprocmask, SIG_SETMASK, (long)&all, 0, sizeof all);
    guard_call(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL, 0, 0);
    if (guard_call(SYS_getppid, 0, 0, 0, 0) != launcher)
        return -1;
    guard_call(SYS_setsid, 0, 0, 0, 0);
    if (guard_call(SYS_close_range, 0, ~0u, 0, 0) < 0)
        for (int fd = 0; fd < GUARD_FDS_MAX; fd++)
            guard_call(SYS_close, fd, 0, 0, 0);
    return (int)guard_call(SYS_openat, AT_FDCWD, (long)g->stat, O_RDONLY, 0);
}

GUARD_UNNOTED static int guard_look_on(void *arg)
{
    const struct timespec step = {0, GUARD_LOOK_NS};
    struct guard *g = arg;
    pid_t launcher = g->launcher;
    int stat_fd = guard_settle(g, launcher);
    while (stat_fd >= 0) {
        guard_call(SYS_nanosleep, (long)&step, 0, 0, 0);
        unsigned conts = __atomic_load_n(&guard_conts, __ATOMIC_SEQ_CST);
        if (!guard_is_stopped(stat_fd))
            continue;
        __atomic_store_n(&g->stopped_at, conts + 1, __ATOMIC_SEQ_CST);
        guard_call(SYS_kill, launcher, SIGCONT, 0, 0);
    }
    return 1;
}

int guard_start(struct guard *g)
{
    struct sigaction cont = {.sa_sigaction = guard_on_cont, .sa_flags = SA_SIGINFO | SA_RESTART};
    g->pid = 0;
    g->stopped_at = 0;
    g->launcher = getpid();
    snprintf(g->stat, sizeof g->stat, "/proc/%d/stat", (int)g->launcher);
    /* No signal at its end: so it stays ours to wait for, where SIGCHLD is ignored, too. */
    int pid = clone(guard_look_on, g->stack + sizeof g->stack, CLONE_VM, g);
    if (pid < 0)
        return -errno;
    g->pid = pid;
    __atomic_store_n(&guard_pid, pid, __ATOMIC_SEQ_CST);
    sigaction(SIGCONT, &cont, &g->cont);
    return 0;
}

void guard_end(struct guard *g)
{
    unsigned stopped_at;
    if (!g->pid)
        return;
    kill(g->pid, SIGKILL);
    waitpid(g->pid, NULL, __WALL);
    g->pid = 0;
    stopped_at = __atomic_load_n(&g->stopped_at, __ATOMIC_SEQ_CST);
    if (stopped_at && stopped_at == __atomic_load_n(&guard_conts, __ATOMIC_SEQ_CST) + 1)
        kill(g->launcher, SIGSTOP);
    sigaction(SIGCONT, &g->cont, NULL);
}
