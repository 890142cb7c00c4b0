/* Remote system calls. See remote.h. */
#include "target/remote.h"

#include <errno.h>
#include <signal.h>
#include <sys/syscall.h>

#include "base/clock.h"
#include "base/fault.h"

/* include/linux/errno.h: never seen by a program, but by its tracer. */
#define REMOTE_ERESTARTSYS 512
#define REMOTE_ERESTARTNOINTR 513
#define REMOTE_ERESTARTNOHAND 514
#define REMOTE_ERESTART_RESTARTBLOCK 516

#define REMOTE_STOPS_MAX 4096 /* between two of a system call's */
#define REMOTE_TRIES 16 /* of a call that the kernel wants restarted */
#define REMOTE_END_NS 500000000ull /* for a thread that has to be stopped once more */

static bool remote_is_erestart(long rax)
{
    return rax == -REMOTE_ERESTARTSYS || rax == -REMOTE_ERESTARTNOINTR ||
           rax == -REMOTE_ERESTARTNOHAND || rax == -REMOTE_ERESTART_RESTARTBLOCK;
}

/* Calls that answer EINTR after a stop without any signal (signal(7), "Interruption
 * of system calls … by stop signals"; recv and friends with SO_RCVTIMEO). */
static bool remote_is_eintr_call(const struct user_regs_struct *regs)
{
    switch ((long)regs->orig_rax) {
    case SYS_epoll_wait:
    case SYS_epoll_pwait:
    case SYS_epoll_pwait2:
    case SYS_accept:
    case SYS_accept4:
    case SYS_connect:
    case SYS_recvfrom:
    case SYS_recvmsg:
    case SYS_recvmmsg:
    case SYS_sendto:
    case SYS_sendmsg:
    case SYS_sendmmsg:
    case SYS_read:
    case SYS_readv:
    case SYS_write:
    case SYS_writev:
    case SYS_semop:
    case SYS_semtimedop:
    case SYS_rt_sigtimedwait:
    case SYS_io_getevents:
    case SYS_io_pgetevents:
    case SYS_io_uring_enter:
        return true;
    default:
        return false;
    }
}

enum remote_restart remote_restart_kind(const struct user_regs_struct *regs)
{
    if ((long)regs->orig_rax < 0)
        return REMOTE_RESTART_NONE;
    if (remote_is_erestart((long)regs->rax))
        return REMOTE_RESTART_KERNEL;
    if ((long)regs->rax == -EINTR && remote_is_eintr_call(regs))
        return REMOTE_RESTART_US;
    return REMOTE_RESTART_NONE;
}

/* The registers with which a thread begins its interrupted call anew. */
static struct user_regs_struct remote_rewound(const struct user_regs_struct *regs)
{
    struct user_regs_struct r = *regs;
    r.rax = regs->orig_rax;
    r.rip = regs->rip - 2;
    r.orig_rax = (uint64_t)-1;
    return r;
}

void remote_rewind(struct tracee *t, const struct user_regs_struct *regs)
{
    if (remote_restart_kind(regs) != REMOTE_RESTART_US)
        return;
    struct user_regs_struct first = remote_rewound(regs);
    (void)!tracee_set_regs(t, &first); /* refused: it was killed */
}

int remote_prepare(struct remote *r, struct tracee *t, const struct user_regs_struct *regs,
                   raddr_t syscall_insn, raddr_t restore_rt)
{
    r->t = t;
    r->syscall_insn = syscall_insn;
    r->restore_rt = restore_rt;
    r->orig = *regs;
    r->entered = r->in_call = r->vanished = r->caller_retries = r->unsettled = false;
    r->sig = 0;
    return tracee_get_sigmask(t, &r->mask);
}

/* The kernel aborts a restartable sequence by itself when its thread was stopped,
 * unless it finds other registers there: ours. So we do it. A thread inside a
 * system call is in no sequence. */
static int remote_abort_rseq(struct remote *r)
{
    raddr_t abort_ip;
    if ((long)r->orig.orig_rax >= 0)
        return 0;
    int ret = tracee_rseq_abort(r->t, r->orig.rip, &abort_ip);
    if (ret == 1)
        r->orig.rip = abort_ip;
    return ret < 0 ? ret : 0;
}

static int remote_write_frame(struct remote *r)
{
    unsigned char xstate[SIGFRAME_XSTATE_MAX];
    ssize_t len = tracee_get_xstate(r->t, xstate, sizeof xstate);
    if (len < 0)
        return (int)len;
    /* Sigreturn ends restart blocks (restart_block.fn), so in this frame, which
     * only a dead tracer brings into use, every interrupted call begins anew. */
    struct user_regs_struct regs = r->orig;
    if (remote_restart_kind(&regs) != REMOTE_RESTART_NONE)
        regs = remote_rewound(&regs);
    int ret = sigframe_build(&r->frame, &regs, r->mask, xstate, (size_t)len, r->restore_rt);
    if (ret < 0)
        return ret;
    return tracee_write(r->t, r->frame.at, r->frame.bytes, r->frame.len);
}

/* Registers for one call. orig_rax -1: there is no call under way that the
 * kernel could want to restart. DF and TF are not the call's business. */
static struct user_regs_struct remote_call_regs(const struct remote *r, long nr, const uint64_t arg[6])
{
    struct user_regs_struct regs = r->orig;
    regs.rip = r->syscall_insn;
    regs.rsp = r->frame.at;
    regs.rax = (uint64_t)nr;
    regs.orig_rax = (uint64_t)-1;
    regs.eflags &= ~0x500ull;
    regs.rdi = arg[0];
    regs.rsi = arg[1];
    regs.rdx = arg[2];
    regs.r10 = arg[3];
    regs.r8 = arg[4];
    regs.r9 = arg[5];
    return regs;
}

int remote_arm(struct remote *r, long nr, const uint64_t arg[6])
{
    struct user_regs_struct regs = remote_call_regs(r, nr, arg);
    return tracee_set_regs(r->t, &regs);
}

int remote_begin(struct remote *r)
{
    int ret = remote_abort_rseq(r);
    if (ret < 0)
        return ret;
    ret = remote_write_frame(r);
    if (ret < 0)
        return ret;
    /* One SETREGS commits. Until a call is asked for, it is a harmless one. */
    static const uint64_t none[6];
    r->entered = true;
    ret = remote_arm(r, SYS_getpid, none);
    if (ret < 0)
        return ret;
    return tracee_set_sigmask(r->t, ~0ull);
}

/* Keeps what a stop says of the thread: whether it is within a call of ours, and a SIGSTOP
 * that goes on with it. */
static void remote_note(struct remote *r, const struct tracee_stop *stop)
{
    if (stop->event == TRACEE_SYSCALL)
        r->in_call = !r->in_call;
    if (stop->event == TRACEE_SIGNAL && stop->sig == SIGSTOP)
        r->sig = stop->sig;
}

/* Waits for the next stop. One that is late is asked for: whoever gives a call up must
 * know what became of it. The interrupt ends what waits in the kernel, and a call that is
 * over by then is told by its own stop, which comes first. */
static int remote_wait(struct remote *r, uint64_t deadline_ns, struct tracee_stop *ret_stop)
{
    int ret = FAULT_POINT("late", 0) ? -ETIMEDOUT : tracee_wait(r->t, deadline_ns, ret_stop);
    if (ret != -ETIMEDOUT)
        return ret;
    ret = tracee_interrupt(r->t);
    if (ret == 0)
        ret = FAULT_POINT("late", 1) ? -ETIMEDOUT : tracee_wait(r->t, clock_mono_ns() + REMOTE_END_NS, ret_stop);
    r->unsettled = ret == -ETIMEDOUT;
    return ret;
}

/* Resumes up to the next stop that belongs to a system call. Stops that come in
 * between are let pass: a group-stop in the making is entered when we detach. Not
 * without end: somebody may send SIGSTOP faster than we let it pass. */
static int remote_step(struct remote *r, uint64_t deadline_ns, struct tracee_stop *ret_stop)
{
    for (int stops = 0; stops < REMOTE_STOPS_MAX; stops++) {
        int ret = tracee_cont_syscall(r->t, r->sig);
        if (ret < 0 && ret != -ESRCH)
            return ret;
        r->sig = 0;
        ret = remote_wait(r, deadline_ns, ret_stop);
        if (ret < 0)
            return ret;
        remote_note(r, ret_stop);
        switch (ret_stop->event) {
        case TRACEE_SYSCALL:
        case TRACEE_CLONE:
            return 0;
        case TRACEE_GONE:
            r->vanished = true;
            r->entered = false;
            return -ESRCH;
        case TRACEE_SIGNAL:
            /* All that can be blocked is. SIGSTOP is passed on; anything else was
             * forced by our own instructions, and must not kill the target. */
            if (ret_stop->sig != SIGSTOP)
                return -EFAULT;
            break;
        default:
            break;
        }
        if (clock_mono_ns() >= deadline_ns) /* before the call: those stops come before it is entered */
            return -ETIMEDOUT;
    }
    return -ETIMEDOUT;
}

static int remote_call_once(struct remote *r, long nr, const uint64_t arg[6], uint64_t deadline_ns,
                            long *ret_value, pid_t *ret_tid)
{
    struct tracee_stop stop;
    int ret = r->unsettled ? -ETIMEDOUT : remote_arm(r, nr, arg);
    if (ret < 0)
        return ret;
    ret = remote_step(r, deadline_ns, &stop); /* entry */
    if (ret < 0)
        return ret;
    do {
        ret = remote_step(r, deadline_ns, &stop); /* the clone event, if any; exit */
        if (ret < 0)
            return ret;
        if (stop.event == TRACEE_CLONE && ret_tid)
            *ret_tid = (pid_t)stop.message;
    } while (stop.event != TRACEE_SYSCALL);
    return tracee_get_result(r->t, ret_value);
}

int remote_call(struct remote *r, long nr, const uint64_t arg[6], uint64_t deadline_ns, long *ret_value)
{
    for (int i = 0; i < REMOTE_TRIES; i++) {
        long value;
        int ret = remote_call_once(r, nr, arg, deadline_ns, &value, NULL);
        if (ret < 0)
            return ret;
        if (!remote_is_erestart(value)) { /* it is with a pending stop of the group, say: fork.c, copy_process */
            *ret_value = value;
            return 0;
        }
        if (clock_mono_ns() >= deadline_ns)
            return -ETIMEDOUT;
    }
    return -EINTR;
}

int remote_clone(struct remote *r, const uint64_t arg[6], bool suspend_seccomp, uint64_t deadline_ns,
                 long *ret_value, pid_t *ret_tid)
{
    int ret = tracee_follow_clone(r->t, suspend_seccomp);
    for (int i = 0; ret == 0 && i < REMOTE_TRIES; i++) {
        long value;
        pid_t tid = 0;
        ret = remote_call_once(r, SYS_clone, arg, deadline_ns, &value, &tid);
        if (tid > 0)
            *ret_tid = tid; /* it lives, whatever became of its parent */
        if (ret < 0)
            return ret;
        if (!remote_is_erestart(value)) {
            *ret_value = value;
            return 0;
        }
        if (clock_mono_ns() >= deadline_ns)
            return -ETIMEDOUT;
    }
    return ret < 0 ? ret : -EINTR;
}

/* The registers to leave with. An EINTR that only our stop caused becomes a
 * restart, with its timeout from the beginning, unless the caller does better;
 * with a signal pending it is the answer that the target would have got from
 * that signal, and stays. */
static struct user_regs_struct remote_final_regs(struct tracee *t, const struct user_regs_struct *orig, uint64_t mask,
                                                 bool caller_retries)
{
    if (remote_restart_kind(orig) == REMOTE_RESTART_US && !caller_retries && tracee_signal_pending(t, mask) == 0)
        return remote_rewound(orig);
    return *orig;
}

void remote_decline(struct tracee *t, const struct user_regs_struct *regs, bool caller_retries)
{
    uint64_t mask;
    if (remote_restart_kind(regs) == REMOTE_RESTART_US && tracee_get_sigmask(t, &mask) == 0) {
        struct user_regs_struct last = remote_final_regs(t, regs, mask, caller_retries);
        (void)!tracee_set_regs(t, &last); /* refused: it was killed */
    }
    tracee_detach(t, 0);
}

/* After a call that timed out the thread may still run. One that can't be stopped
 * now is left to its frame, and to the kernel, which detaches it when the tracing
 * thread ends. And one that stands within a call must come out of it first: what that
 * answers would be put into the registers that we leave it with. */
static int remote_stop_again(struct remote *r)
{
    struct tracee_stop stop;
    int ret = 0;
    if (!r->t->stopped) {
        ret = tracee_interrupt(r->t);
        if (ret == 0)
            ret = tracee_wait(r->t, clock_mono_ns() + REMOTE_END_NS, &stop);
        if (ret == 0 && stop.event == TRACEE_GONE)
            ret = -ESRCH;
        if (ret == 0)
            remote_note(r, &stop);
    }
    while (ret == 0 && r->in_call)
        ret = remote_step(r, clock_mono_ns() + REMOTE_END_NS, &stop);
    return ret;
}

int remote_end(struct remote *r)
{
    if (r->vanished || !r->t->seized)
        return r->vanished ? -ESRCH : 0;
    int ret = remote_stop_again(r);
    if (ret < 0)
        return ret;
    struct user_regs_struct regs = remote_final_regs(r->t, &r->orig, r->mask, r->caller_retries);
    if (r->entered)
        ret = tracee_set_sigmask(r->t, r->mask);
    if (ret == 0)
        ret = tracee_set_regs(r->t, &regs);
    r->entered = false;
    int det = tracee_detach(r->t, r->sig);
    return ret < 0 ? ret : det;
}
