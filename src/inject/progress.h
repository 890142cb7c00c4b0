/* Whether a thread is out of what it was doing at a moment, be it in a call of malloc's: by time
 * on a CPU, or by where it sleeps. */
#ifndef MP_PROGRESS_H
#define MP_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#define PROGRESS_NS 5000000u /* on a CPU: a realloc copies 20 MiB meanwhile */

struct progress {
    pid_t pid, tid;
    uint64_t ran_ns; /* on a CPU, when it was last looked at; UINT64_MAX: the kernel does not say */
    bool moved;      /* that has grown since: time up to then may have been before the moment */
};

/* Notes the moment. */
void progress_begin(struct progress *p, pid_t pid, pid_t tid);

/* To be asked again and again. True once the thread has run for PROGRESS_NS, waits for something
 * that malloc does not wait for, or is gone; and where the kernel does not count. */
bool progress_made(struct progress *p);

#endif
