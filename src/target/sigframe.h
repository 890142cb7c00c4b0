/* A signal frame made by hand, x86-64: the kernel's rt_sigreturn(2) gives a
 * thread back all that stands in it. It is what lets a borrowed thread restore
 * itself when its tracer dies.
 *
 *   sp (red zone of 128 bytes below it is the thread's)
 *   +--------------------+ sp - 128
 *   | fpstate            |  64-byte aligned, XSAVE standard format, then MAGIC2
 *   | siginfo (zeros)    |
 *   | ucontext           |  registers, signal mask; alternate stack: "leave it"
 *   +--------------------+
 *   | return address     |  libc's `mov $15,%eax; syscall`
 *   +--------------------+ frame: a `ret` with this stack pointer does it all */
#ifndef MP_SIGFRAME_H
#define MP_SIGFRAME_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/user.h>

#include "base/err.h"
#include "target/raddr.h"

#define SIGFRAME_XSTATE_MAX 16384 /* AMX tile data included */
#define SIGFRAME_MAX (SIGFRAME_XSTATE_MAX + 2048)

struct sigframe {
    raddr_t at;  /* where bytes[] belong: the stack pointer to run with */
    size_t len;  /* up to, not into, the red zone */
    _Alignas(64) unsigned char bytes[SIGFRAME_MAX];
};

/* Most bytes of stack that a frame takes below a thread's stack pointer, red
 * zone included, on this machine. The first call is slow: make it before a stop. */
size_t sigframe_room(void);

/* Builds the frame that brings back regs (as they are: the caller has settled
 * what becomes of an interrupted system call), mask and the xstate as PTRACE's
 * NT_X86_XSTATE told it. 0; -EINVAL when the xstate is no such thing; -EFAULT when
 * rsp is that near to address 0 that no frame fits below it. */
int sigframe_build(struct sigframe *f, const struct user_regs_struct *regs, uint64_t mask,
                   const void *xstate, size_t xstate_len, raddr_t restore_rt) MP_MUST_CHECK;

#endif
