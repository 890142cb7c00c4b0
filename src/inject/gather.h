/* Facts about a process and about us, for decide(). */
#ifndef MP_GATHER_H
#define MP_GATHER_H

#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"
#include "inject/decide.h"

struct gather {
    struct decide_facts facts; /* all but the libraries */
    uint64_t starttime;        /* 0 when the process is not there */
    pid_t ns_pid;              /* in its innermost pid namespace */
    unsigned threads;
    unsigned seccomp_filters; /* of the first thread */
    uint64_t rss_bytes;
    pid_t live;                /* a thread that has memory; negative: none has */
};

/* Gathers; never fails, facts.exists says what became of it. */
void gather_process(struct gather *g, pid_t pid);

/* Turns -errno, met while looking at pid, into a failure that names the cause:
 * gone, not ours, Yama, capabilities... Returns a negative enum mp_err. */
int gather_refusal(pid_t pid, int err, struct mp_failure *f);

#endif
