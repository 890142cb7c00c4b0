/* Turns. From one stop of a thread to the next, it and the one that traces it run in turns. On one core each
 * turn begins with a switch, on two with waking up a core that has gone idle, which takes several times as
 * long, most of all in a virtual machine. But the kernel wakes a thread on an idle core if there is one, and
 * never on that of a thread that it takes to be busy. So the tracing thread
 *
 *   lends    its core, where there are idle ones: with SCHED_IDLE it counts for nothing, so that the other
 *            one is woken right there, and runs at once (Linux 5.4). Whoever else comes to that core goes before it
 *            as well, so a second thread watches: after 400 us it is an ordinary thread again, after as many more it
 *            leaves that core.
 *   shares   its core, where all are wanted: it sleeps for each stop.
 *
 * Else they run apart. Measured in docs/learnt.md. */
#ifndef MP_TURNS_H
#define MP_TURNS_H

#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct turns {
    _Atomic uint32_t state; /* enum turns_state, and above it how often it was lent or shared; a futex */
    pid_t tid;              /* of the tracing thread */
    bool may_lend;          /* it may take its core back (CAP_SYS_NICE) */
    bool when_asked;        /* it lends its core once the thread has been asked to stop */
    int core;               /* where it went last */
    cpu_set_t cores;        /* that it may use */
    cpu_set_t both;         /* and the traced one, too */
};

/* Of the calling thread, which is to trace; may_lend: it may raise its own priority (needed to come back from SCHED_IDLE). *t is its own from now on. */
void turns_begin(struct turns *t, bool may_lend);
void turns_end(struct turns *t);

/* Sees to it that turns_begin's thread gets on; returns after its turns_end. The calling thread and that one
 * have SIGCHLD blocked. */
void turns_watch(struct turns *t);

/* Thread tid of process pid is about to be asked to stop; has been asked; is about to go on (it may be asked again); and
 * has gone on. Nothing happens on a thread without turns_begin. */
void turns_near(pid_t pid, pid_t tid);
void turns_asked(void);
void turns_back(void);
void turns_apart(void);

#endif
