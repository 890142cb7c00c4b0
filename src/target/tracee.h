/* One thread of another process under PTRACE_SEIZE: its stops told apart, its
 * registers and signal mask, its memory. No other thread is touched.
 *
 * A tracer's death detaches its tracees (ptrace(2)), and so does the death of
 * the tracing thread alone; PTRACE_O_EXITKILL is never set. A thread that is
 * seized but will not stop (state D) can't be detached by call: it is let go by
 * ending the tracing thread. */
#ifndef MP_TRACEE_H
#define MP_TRACEE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/user.h>

#include "base/err.h"
#include "target/raddr.h"

/* What a stop, or the end of a thread, means. */
enum tracee_event {
    TRACEE_TRAP,       /* PTRACE_EVENT_STOP: our interrupt, or a new thread's first stop */
    TRACEE_GROUP_STOP, /* the process is being stopped by SIGSTOP, SIGTSTP, SIGTTIN or SIGTTOU */
    TRACEE_SYSCALL,    /* entry or exit of a system call (PTRACE_SYSCALL) */
    TRACEE_CLONE,      /* PTRACE_EVENT_CLONE: stop.message is the new thread's id */
    TRACEE_SIGNAL,     /* stop.sig is about to be delivered; it is lost unless resumed with it */
    TRACEE_OTHER,      /* another ptrace event: none that we ask for */
    TRACEE_GONE        /* the thread has ended, or an exec of its process took it away */
};

struct tracee_stop {
    enum tracee_event event;
    int sig;           /* TRACEE_SIGNAL, TRACEE_GROUP_STOP */
    uint64_t message;  /* TRACEE_CLONE */
};

struct tracee {
    pid_t tid;
    bool seized;  /* we trace it */
    bool stopped; /* in a ptrace-stop, as far as we were told */
    int mem_fd;   /* /proc/TID/mem, open for read and write; -1 */
    uint64_t let_go_ns; /* when tracee_detach was called last */
    uint64_t look_ns; /* when it is looked whether it is a zombie, if it is waited for; 0: not yet waited for */
};

/* The meaning of a wait status. Pure; message stays 0. */
struct tracee_stop tracee_classify(int status);

/* Opens the thread's memory: done before the stop, because it costs. 0 or -errno
 * (-EACCES, -ESRCH). An object that was init'ed is always fit for release. */
void tracee_init(struct tracee *t, pid_t tid);
int tracee_open_mem(struct tracee *t) MP_MUST_CHECK;
void tracee_release(struct tracee *t); /* closes; does not detach */

/* Seizes; the thread runs on. suspend_seccomp adds PTRACE_O_SUSPEND_SECCOMP
 * (4.3, needs CAP_SYS_ADMIN). 0, -EPERM (forbidden or traced by another), -ESRCH. */
int tracee_seize(struct tracee *t, bool suspend_seccomp) MP_MUST_CHECK;

/* Asks for a stop without a signal. 0 or -errno. */
int tracee_interrupt(struct tracee *t) MP_MUST_CHECK;

/* Has this thread sleep for each stop, or poll again. Needs SIGCHLD blocked and not ignored, and somebody who
 * sends it one now and then (turns_watch): a deadline is noticed then, and what no stop tells of. */
void tracee_sleep_for_stops(bool on);

/* Waits for the next stop or the end. 0 and *ret_stop, or -ETIMEDOUT. Polls
 * (pause matters more than a core for its length), then sleeps in short steps. */
int tracee_wait(struct tracee *t, uint64_t deadline_ns, struct tracee_stop *ret_stop) MP_MUST_CHECK;

/* Resumes a stopped thread, to run freely or to the next system call stop,
 * delivering sig if it is not 0. 0 or -errno (-ESRCH: it was killed). */
int tracee_cont(struct tracee *t, int sig) MP_MUST_CHECK;
int tracee_cont_syscall(struct tracee *t, int sig) MP_MUST_CHECK;

/* Lets a stopped thread go, delivering sig if it is not 0. The kernel then acts
 * as at the end of any signal check: a system call whose result is -ERESTART* is
 * restarted if the registers say so (orig_rax), a group-stop in force is entered
 * (kernel/ptrace.c, __ptrace_unlink sets TIF_SIGPENDING). -ESRCH: it was killed meanwhile, and
 * has been waited for, up to 200 ms. */
int tracee_detach(struct tracee *t, int sig);

int tracee_get_regs(struct tracee *t, struct user_regs_struct *ret) MP_MUST_CHECK;
int tracee_set_regs(struct tracee *t, const struct user_regs_struct *regs) MP_MUST_CHECK;

/* rax alone. */
int tracee_get_result(struct tracee *t, long *ret_rax) MP_MUST_CHECK;

/* The blocked set as rt_sigprocmask would show it (PTRACE_GETSIGMASK, 3.11):
 * bit n-1 is signal n. */
int tracee_get_sigmask(struct tracee *t, uint64_t *ret_mask) MP_MUST_CHECK;
int tracee_set_sigmask(struct tracee *t, uint64_t mask) MP_MUST_CHECK;

/* Whether a clone makes a TRACEE_CLONE stop and seizes the new thread too. */
int tracee_follow_clone(struct tracee *t, bool suspend_seccomp) MP_MUST_CHECK;

/* The extended state as NT_X86_XSTATE tells it (standard format). Returns its
 * length; -ENOBUFS when size is too small. */
ssize_t tracee_get_xstate(struct tracee *t, void *ret_buf, size_t size) MP_MUST_CHECK;

/* 1 when a signal outside mask is pending for the thread or its process, 0 when
 * none is, -errno (PTRACE_PEEKSIGINFO, 3.10). */
int tracee_signal_pending(struct tracee *t, uint64_t mask) MP_MUST_CHECK;

/* 1 and the abort address when ip lies in the restartable sequence that the
 * thread is in (rseq(2)), else 0; -errno when memory can't be read. */
int tracee_rseq_abort(struct tracee *t, raddr_t ip, raddr_t *ret_abort_ip) MP_MUST_CHECK;

/* Reads and writes exactly len bytes of the thread's memory; a write goes to
 * private mappings that are not writable, too (FOLL_FORCE). 0 or -errno. */
int tracee_read(struct tracee *t, raddr_t at, void *ret_buf, size_t len) MP_MUST_CHECK;
int tracee_write(struct tracee *t, raddr_t at, const void *buf, size_t len) MP_MUST_CHECK;

#endif
