/* System calls in another process, made by one of its threads that is stopped at
 * a ptrace-stop and lent to us for some microseconds.
 *
 * The thread executes `syscall` instructions that its libc has anyway, seen by
 * syscall-stops (a single step would end in a forced SIGTRAP, which resets the
 * signal's disposition when the target blocks or ignores it). From the first
 * changed register on it stands on a signal frame of its own state (sigframe.h),
 * so that the tracer's death at any moment makes it restore itself:
 *
 *   remote_begin   frame written; then registers; then all signals blocked
 *   remote_call    … as often as needed
 *   remote_end     signal mask; then registers as they were; then detach
 *
 * The order is the invariant: the mask differs from the thread's own only while
 * the registers lead to the frame that restores it. */
#ifndef MP_REMOTE_H
#define MP_REMOTE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <sys/user.h>

#include "base/err.h"
#include "target/raddr.h"
#include "target/sigframe.h"
#include "target/tracee.h"

#ifndef SYS_epoll_pwait2
#define SYS_epoll_pwait2 441 /* 5.11 */
#endif

struct remote {
    struct tracee *t;
    raddr_t syscall_insn;         /* `syscall; ret` */
    raddr_t restore_rt;           /* the signal return stub */
    struct user_regs_struct orig; /* as the thread had them at the stop */
    uint64_t mask;                /* its signal mask */
    bool entered;                 /* between begin and end */
    bool in_call;                 /* it has entered a call of ours and not come out of it */
    bool vanished;                /* the thread ended in our hands */
    bool unsettled;               /* it does not stop: what a call of ours did, or will do yet, is not known */
    int sig;                      /* SIGSTOP that came while it was ours, and goes on with it; 0 */
    bool caller_retries;          /* for remote_end: EINTR is harmless, the caller knows what remains of its timeout.
                                     false after remote_prepare */
    struct sigframe frame;
};

/* What an interrupted system call needs so that the target never learns of the stop. */
enum remote_restart {
    REMOTE_RESTART_NONE,   /* no system call was interrupted */
    REMOTE_RESTART_KERNEL, /* rax is -ERESTART*: the kernel does it at our detach */
    REMOTE_RESTART_US      /* rax is -EINTR of a call that the kernel would not restart */
};

/* The kind for a thread stopped with these registers. Pure. */
enum remote_restart remote_restart_kind(const struct user_regs_struct *regs);

/* Fills r for a thread at a ptrace-stop: registers regs, mask read. 0 or -errno;
 * nothing in the thread is changed yet. */
int remote_prepare(struct remote *r, struct tracee *t, const struct user_regs_struct *regs,
                   raddr_t syscall_insn, raddr_t restore_rt) MP_MUST_CHECK;

/* Right after the stop, with registers regs: a call that the kernel would answer with EINTR
 * begins anew should we die from here on. All below set the registers again. */
void remote_rewind(struct tracee *t, const struct user_regs_struct *regs);

/* Lets go of a stopped thread that nothing was done to, so that it never learns of
 * the stop; caller_retries as above. */
void remote_decline(struct tracee *t, const struct user_regs_struct *regs, bool caller_retries);

/* Writes the frame and makes the thread ours. 0 or -errno; on failure the caller
 * calls remote_end all the same. */
int remote_begin(struct remote *r) MP_MUST_CHECK;

/* Sets the thread up for a call without running it: what it does, before it
 * restores itself, should we die here. 0 or -errno. */
int remote_arm(struct remote *r, long nr, const uint64_t arg[6]) MP_MUST_CHECK;

/* One system call. 0 with the kernel's answer (a value or -errno) in *ret_value, be it late;
 * -ESRCH when the thread ended; -ETIMEDOUT, of which r->unsettled tells whether the call
 * may have been made; another -errno. */
int remote_call(struct remote *r, long nr, const uint64_t arg[6], uint64_t deadline_ns,
                long *ret_value) MP_MUST_CHECK;

/* clone(2), with the new thread seized and left at its first stop: *ret_tid is
 * its id as we number it. Otherwise as remote_call. */
int remote_clone(struct remote *r, const uint64_t arg[6], bool suspend_seccomp, uint64_t deadline_ns,
                 long *ret_value, pid_t *ret_tid) MP_MUST_CHECK;

/* Gives the thread back to itself and detaches. Harmless after a failed or
 * missing remote_begin. 0 or -errno (-ESRCH: it has ended). */
int remote_end(struct remote *r);

#endif
