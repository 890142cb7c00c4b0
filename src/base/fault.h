/* Fault points: places where a test build dies, stops or fails on demand. A build
 * without MP_FAULTS has no code of it. `make campaign-faults` goes through all of them.
 *
 * $MEMPULSE_FAULT is NAME-KIND#N:ACTION: at the Nth passage of the point NAME of that
 * KIND (a ptrace request, a message type, 0); with N+ at all later ones, too. Two may be
 * asked for, with a comma between them.
 *   kill    SIGKILL, to the whole launcher
 *   stop    SIGSTOP
 *   doze    half a second goes by, in this thread
 *   slay    SIGKILL, to the process $MEMPULSE_FAULT_TARGET
 *   bury    the same, and the step begins when that process has ended
 *   exit    SIGUSR1 to it, exec SIGUSR2, crash SIGSEGV: its handlers do that themselves, as
 *           those of tests/campaign/targets/helper.c; it may be at it when the step begins
 *   fail    the step fails with EIO, where its place heeds that
 *   enomem  of malloc-0: that allocation fails
 * $MEMPULSE_FAULT_LIST names a file to which each passage is added as NAME-KIND#N, and at
 * the end malloc-0#COUNT. $MEMPULSE_FAULT_FIRED names one to which the first passage is added
 * at which each of them came true. */
#ifndef MP_FAULT_H
#define MP_FAULT_H

#ifdef MP_FAULTS
/* 0, or a negative errno that the caller returns as its step's result. */
int fault_point(const char *name, int kind);
#define FAULT_POINT(name, kind) fault_point(name, kind)
#else
#define FAULT_POINT(name, kind) 0
#endif

#endif
