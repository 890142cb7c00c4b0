/* Threads that may be ours, in a region that a launcher left. Where a running thread is isn't
 * told (proc_pid_syscall(5)); but one of ours has every signal blocked from its first moment
 * on. So has one of libc's that begins or ends, and in a busy target that makes threads there is
 * always one of those. What tells them apart is what becomes of them. */
#ifndef MP_SUSPECTS_H
#define MP_SUSPECTS_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#define SUSPECTS_MAX 256 /* more at once: nobody is acquitted */

struct suspects {
    bool unused;   /* to be set: nothing has run in the region, so its thread has yet to make its first step */
    bool begun;
    unsigned calm; /* looks in a row that found none */
    size_t count;
    pid_t tid[SUSPECTS_MAX];
};

/* Looks once at all threads of pid.
 *   used     Ours may hand over to another of ours and end, so whoever ends may have done that.
 *   unused   Nobody brings forth a thread of ours but one of ours that ran: who was not there at
 *            the first look, who ended, or waits in a system call, is another's.
 * A thread that can't be looked at has ended. */
void suspects_look(struct suspects *s, pid_t pid);

#endif
