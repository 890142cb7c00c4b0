/* A process beside the launcher, while that holds threads of the target: a launcher that is
 * stopped just then (SIGSTOP, kill -STOP of a whole job) would keep them standing for as long.
 * The guard sees it stopped and continues it; the launcher gives back what it holds first, and
 * then stops itself, as it was told to, unless somebody else has continued it since. A freezer stops both. */
#ifndef MP_GUARD_H
#define MP_GUARD_H

#include <signal.h>
#include <sys/types.h>

#define GUARD_STACK 16384

struct guard {
    pid_t pid; /* 0: there is none */
    pid_t launcher;
    unsigned stopped_at; /* written by it, 0: the launcher has not been stopped; else how often others had continued it by then, plus 1 */
    struct sigaction cont; /* what SIGCONT did before */
    char stat[32];  /* the launcher's in /proc */
    char stack[GUARD_STACK] __attribute__((aligned(16)));
};

/* Starts it. It shares our memory (clone(2), CLONE_VM), since after a fork each page that we
 * write to is copied first, in the pause. The calling thread must live until guard_end: with
 * it the guard ends (PR_SET_PDEATHSIG). 0 or -errno: there is none, and guard_end does nothing. */
int guard_start(struct guard *g);

/* Ends it. A launcher that was stopped meanwhile stops itself here. */
void guard_end(struct guard *g);

#endif
