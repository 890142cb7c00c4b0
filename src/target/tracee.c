/* ptrace, one thread at a time. See tracee.h. */
#include "target/tracee.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fault.h"
#include "target/proc.h"

/* From linux/ptrace.h, which can't be included beside sys/ptrace.h. */
#define TRACEE_O_SUSPEND_SECCOMP (1 << 21)
#define TRACEE_GETSIGMASK 0x420a
#define TRACEE_SETSIGMASK 0x420b
#define TRACEE_PEEKSIGINFO 0x4209
#define TRACEE_PEEKSIGINFO_SHARED 1
#define TRACEE_GET_RSEQ 0x420f /* 5.13 */
#define TRACEE_EVENT_STOP 128
#define TRACEE_DEATH_NS 200000000ull /* for one that was killed; a core dump takes longer */
#define TRACEE_SLEEP_NS 1000000ull   /* a deadline that is nearer is waited for awake */
#define TRACEE_LOOK_NS 2000000ull    /* between two looks whether one that is waited for is a zombie */

struct tracee_peek {
    uint64_t off;
    uint32_t flags;
    int32_t nr;
};

struct tracee_rseq {
    uint64_t pointer;
    uint32_t size;
    uint32_t signature;
    uint32_t flags;
    uint32_t pad;
};

/* struct rseq_cs of linux/rseq.h */
struct tracee_rseq_cs {
    uint32_t version, flags;
    uint64_t start_ip, post_commit_offset, abort_ip;
};

static long tracee_ptrace(int request, const struct tracee *t, uintptr_t addr, uintptr_t data)
{
    int fault = FAULT_POINT("ptrace", request);
    if (fault)
        return fault;
    long r = ptrace((enum __ptrace_request)request, t->tid, (void *)addr, (void *)data);
    return r == -1 ? -errno : r;
}

static int tracee_error(long r)
{
    return r < 0 ? (int)r : 0;
}

struct tracee_stop tracee_classify(int status)
{
    struct tracee_stop s = {.event = TRACEE_GONE};
    if (!WIFSTOPPED(status))
        return s;
    int sig = WSTOPSIG(status), event = status >> 16;
    if (event == TRACEE_EVENT_STOP) {
        /* SIGTRAP unless a group-stop is the reason; then it is the signal. */
        s.event = sig == SIGTRAP ? TRACEE_TRAP : TRACEE_GROUP_STOP;
        s.sig = sig == SIGTRAP ? 0 : sig;
    } else if (event == PTRACE_EVENT_CLONE) {
        s.event = TRACEE_CLONE;
    } else if (event != 0) {
        s.event = TRACEE_OTHER;
    } else if (sig == (SIGTRAP | 0x80)) {
        s.event = TRACEE_SYSCALL;
    } else {
        s.event = TRACEE_SIGNAL;
        s.sig = sig;
    }
    return s;
}

void tracee_init(struct tracee *t, pid_t tid)
{
    *t = (struct tracee){.tid = tid, .mem_fd = -1};
}

/* /proc/TID and not /proc/PID: since 6.12 a forced write may be allowed to the
 * tracer of exactly the thread whose file it is (proc_mem.force_override=ptrace). */
int tracee_open_mem(struct tracee *t)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/mem", (int)t->tid);
    t->mem_fd = open(path, O_RDWR | O_CLOEXEC);
    if (t->mem_fd >= 0)
        return 0;
    return errno == ENOENT ? -ESRCH : -errno;
}

void tracee_release(struct tracee *t)
{
    if (t->mem_fd >= 0)
        close(t->mem_fd);
    t->mem_fd = -1;
}

int tracee_seize(struct tracee *t, bool suspend_seccomp)
{
    uintptr_t options = PTRACE_O_TRACESYSGOOD | (suspend_seccomp ? TRACEE_O_SUSPEND_SECCOMP : 0);
    long r = tracee_ptrace(PTRACE_SEIZE, t, 0, options);
    if (r == 0)
        t->seized = true;
    return tracee_error(r);
}

int tracee_interrupt(struct tracee *t)
{
    return tracee_error(tracee_ptrace(PTRACE_INTERRUPT, t, 0, 0));
}

static _Thread_local bool sleeps;

void tracee_sleep_for_stops(bool on)
{
    sleeps = on;
}

/* Until a stop, of any thread of ours, is told. Without a timer, which costs more than the switch. */
static void tracee_sleep(void)
{
    sigset_t told;
    sigemptyset(&told);
    sigaddset(&told, SIGCHLD);
    (void)!sigwaitinfo(&told, NULL);
}

/* Spins for 60 us, in which nearly every stop comes when the machine has a core to
 * spare; then sleeps, because the tracee may be waiting for ours: for so long that it gets to run
 * between two looks, which it does not in 1 us (docs/learnt.md). */
static void tracee_relax(uint64_t start_ns, uint64_t left_ns)
{
    uint64_t waited = clock_mono_ns() - start_ns;
    if (sleeps && left_ns >= TRACEE_SLEEP_NS) {
        tracee_sleep();
        return;
    }
    if (waited < 60000) {
        sched_yield();
        return;
    }
    struct timespec ts = {0, waited < 1000000 ? 20000 : 50000};
    nanosleep(&ts, NULL);
}

/* A first thread that was killed is told of only when all others of its process have been
 * waited for (kernel/exit.c, wait_consider_task), of which one may be ours to wait for: a raw thread,
 * for which the exec that killed both waits. */
static bool tracee_is_zombie(const struct tracee *t)
{
    struct proc_stat st;
    return proc_stat_read(&st, t->tid, 0) == 0 && st.state == 'Z';
}

/* False: no event yet. */
static bool tracee_poll(struct tracee *t, struct tracee_stop *ret_stop)
{
    int status;
    pid_t r = waitpid(t->tid, &status, __WALL | WNOHANG);
    if (r == t->tid)
        *ret_stop = tracee_classify(status);
    else if (r < 0 && errno != EINTR) /* ECHILD: an exec took the thread away */
        *ret_stop = (struct tracee_stop){.event = TRACEE_GONE};
    else
        return false;
    return true;
}

int tracee_wait(struct tracee *t, uint64_t deadline_ns, struct tracee_stop *ret_stop)
{
    uint64_t start = clock_mono_ns(), now;
    if (!t->look_ns)
        t->look_ns = start + TRACEE_LOOK_NS;
    while (!tracee_poll(t, ret_stop)) {
        now = clock_mono_ns();
        if (now >= t->look_ns) {
            t->look_ns = now + TRACEE_LOOK_NS;
            if (tracee_is_zombie(t)) {
                if (!tracee_poll(t, ret_stop))
                    *ret_stop = (struct tracee_stop){.event = TRACEE_GONE};
                break;
            }
        }
        if (now >= deadline_ns)
            return -ETIMEDOUT;
        tracee_relax(start, deadline_ns - now);
    }
    t->look_ns = 0;
    t->stopped = ret_stop->event != TRACEE_GONE;
    (void)FAULT_POINT("stop", (int)ret_stop->event);
    if (!t->stopped)
        t->seized = false;
    if (ret_stop->event == TRACEE_CLONE) {
        unsigned long message = 0;
        if (tracee_ptrace(PTRACE_GETEVENTMSG, t, 0, (uintptr_t)&message) == 0)
            ret_stop->message = message;
    }
    return 0;
}

static int tracee_resume(struct tracee *t, int request, int sig)
{
    long r = tracee_ptrace(request, t, 0, (uintptr_t)sig);
    if (r == 0)
        t->stopped = false;
    return tracee_error(r);
}

int tracee_cont(struct tracee *t, int sig)
{
    return tracee_resume(t, PTRACE_CONT, sig);
}

int tracee_cont_syscall(struct tracee *t, int sig)
{
    return tracee_resume(t, PTRACE_SYSCALL, sig);
}

/* A thread that was killed where it stood is a zombie until we have waited for it, and an exec of
 * another thread, which killed it, waits for that (fs/exec.c, de_thread), as does every
 * PTRACE_SEIZE for the exec. */
int tracee_detach(struct tracee *t, int sig)
{
    struct tracee_stop stop;
    t->let_go_ns = clock_mono_ns(); /* not after the call: it may have our core by then */
    int r = tracee_resume(t, PTRACE_DETACH, sig);
    if (r == -ESRCH)
        (void)!tracee_wait(t, clock_mono_ns() + TRACEE_DEATH_NS, &stop);
    if (r == 0)
        t->seized = false;
    return r;
}

int tracee_get_regs(struct tracee *t, struct user_regs_struct *ret)
{
    return tracee_error(tracee_ptrace(PTRACE_GETREGS, t, 0, (uintptr_t)ret));
}

int tracee_set_regs(struct tracee *t, const struct user_regs_struct *regs)
{
    return tracee_error(tracee_ptrace(PTRACE_SETREGS, t, 0, (uintptr_t)regs));
}

int tracee_get_result(struct tracee *t, long *ret_rax)
{
    errno = 0;
    long rax = ptrace(PTRACE_PEEKUSER, t->tid, (void *)offsetof(struct user_regs_struct, rax), NULL);
    if (errno)
        return -errno;
    *ret_rax = rax;
    return 0;
}

int tracee_get_sigmask(struct tracee *t, uint64_t *ret_mask)
{
    return tracee_error(tracee_ptrace(TRACEE_GETSIGMASK, t, sizeof *ret_mask, (uintptr_t)ret_mask));
}

int tracee_set_sigmask(struct tracee *t, uint64_t mask)
{
    return tracee_error(tracee_ptrace(TRACEE_SETSIGMASK, t, sizeof mask, (uintptr_t)&mask));
}

int tracee_follow_clone(struct tracee *t, bool suspend_seccomp)
{
    uintptr_t options = PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACECLONE |
                        (suspend_seccomp ? TRACEE_O_SUSPEND_SECCOMP : 0);
    return tracee_error(tracee_ptrace(PTRACE_SETOPTIONS, t, 0, options));
}

ssize_t tracee_get_xstate(struct tracee *t, void *ret_buf, size_t size)
{
    struct iovec iov = {ret_buf, size};
    long r = tracee_ptrace(PTRACE_GETREGSET, t, NT_X86_XSTATE, (uintptr_t)&iov);
    if (r < 0)
        return r;
    /* The kernel fills what there is room for and says no more than that. */
    return iov.iov_len >= size ? -ENOBUFS : (ssize_t)iov.iov_len;
}

int tracee_signal_pending(struct tracee *t, uint64_t mask)
{
    for (uint32_t flags = 0; flags <= TRACEE_PEEKSIGINFO_SHARED; flags++) {
        siginfo_t info[16];
        uint64_t off = 0;
        for (;;) {
            struct tracee_peek peek = {.off = off, .flags = flags, .nr = 16};
            long n = tracee_ptrace(TRACEE_PEEKSIGINFO, t, (uintptr_t)&peek, (uintptr_t)info);
            if (n < 0)
                return (int)n;
            for (long i = 0; i < n; i++)
                if (info[i].si_signo >= 1 && info[i].si_signo <= 64 &&
                    !(mask >> (info[i].si_signo - 1) & 1))
                    return 1;
            if (n < 16 || off > 4096) /* the queue is bounded by RLIMIT_SIGPENDING; so are we */
                break;
            off += (uint64_t)n;
        }
    }
    return 0;
}

int tracee_rseq_abort(struct tracee *t, raddr_t ip, raddr_t *ret_abort_ip)
{
    struct tracee_rseq conf = {0};
    if (tracee_ptrace(TRACEE_GET_RSEQ, t, sizeof conf, (uintptr_t)&conf) < 0 || !conf.pointer)
        return 0; /* none registered, or a kernel before 5.13 */
    uint64_t cs_at;
    int r = tracee_read(t, conf.pointer + 8, &cs_at, sizeof cs_at); /* struct rseq, rseq_cs */
    if (r < 0 || !cs_at)
        return r;
    struct tracee_rseq_cs cs;
    r = tracee_read(t, cs_at, &cs, sizeof cs);
    if (r < 0)
        return r;
    if (ip - cs.start_ip >= cs.post_commit_offset)
        return 0;
    *ret_abort_ip = cs.abort_ip;
    return 1;
}

int tracee_read(struct tracee *t, raddr_t at, void *ret_buf, size_t len)
{
    ssize_t n = pread(t->mem_fd, ret_buf, len, (off_t)at);
    if (n < 0)
        return errno == EIO ? -EFAULT : -errno;
    return (size_t)n == len ? 0 : -EFAULT;
}

/* Word by word, where /proc/TID/mem refuses forced writes (proc_mem.force_override). */
static int tracee_poke(struct tracee *t, raddr_t at, const unsigned char *buf, size_t len)
{
    for (size_t done = 0; done < len;) {
        uint64_t word;
        raddr_t word_at = (at + done) & ~7ull;
        size_t skip = (size_t)(at + done - word_at), n = 8 - skip;
        if (n > len - done)
            n = len - done;
        errno = 0;
        word = (uint64_t)ptrace(PTRACE_PEEKDATA, t->tid, (void *)(uintptr_t)word_at, NULL);
        if (errno)
            return errno == EIO ? -EFAULT : -errno;
        memcpy((unsigned char *)&word + skip, buf + done, n);
        long r = tracee_ptrace(PTRACE_POKEDATA, t, (uintptr_t)word_at, (uintptr_t)word);
        if (r < 0)
            return r == -EIO ? -EFAULT : (int)r;
        done += n;
    }
    return 0;
}

int tracee_write(struct tracee *t, raddr_t at, const void *buf, size_t len)
{
    int fault = FAULT_POINT("write", 0);
    if (fault)
        return fault;
    ssize_t n = pwrite(t->mem_fd, buf, len, (off_t)at);
    if (n > 0 && (size_t)n == len)
        return 0;
    if (n < 0)
        n = 0;
    return tracee_poke(t, at + (uint64_t)n, (const unsigned char *)buf + n, len - (size_t)n);
}
