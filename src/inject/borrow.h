/* Borrowing a thread: one is chosen, stopped at a safe point, used, and given
 * back. Shared by injection and sweep. */
#ifndef MP_BORROW_H
#define MP_BORROW_H

#include <stdint.h>
#include <stdio.h>

#include "inject/plan.h"
#include "inject/safepoint.h"
#include "target/maps.h"
#include "target/remote.h"
#include "target/tracee.h"

#define BORROW_STUCK_MAX 16

struct borrow {
    const struct inject_plan *plan;
    FILE *log;
    int wake_fd;         /* readable ends the search: MP_E_INTERRUPTED; -1: nothing does */
    struct tracee t;
    struct remote remote;
    struct user_regs_struct regs; /* of the thread as it was stopped */
    struct maps maps;    /* for the room on the stack */
    size_t room;         /* that a signal frame needs */
    unsigned attempts;   /* stops made */
    uint64_t seize_ns;   /* of the last attempt */
    uint64_t stop_ns;    /* seen stopped */
    uint64_t pause_ns;   /* of the last stop, once given back */
    uint64_t attach_ns;
    uint64_t pause_ns_sum;
    struct safepoint_answer last; /* what stood in the way */
    uint64_t hold_ns;    /* the thread stands for the loader's sake, until then at most; 0: it does not */
    pid_t last_tid;      /* whose that is; 0: none was judged */
    bool caller_retries; /* as safepoint_caller_retries says of the thread */
    bool any_stack;      /* searched for BORROW_STACK_NS: what called the thread does not count any more */
    bool execed;         /* the program is not the one of the plan */
    struct tracee stuck[BORROW_STUCK_MAX]; /* asked to stop, and have not yet */
    unsigned stuck_count;
};

/* Runs fn(arg) on a thread of its own and waits for it: signals blocked, and, where
 * that is allowed, ahead of others, since the target waits for it. All ptrace work
 * is done so: when the tracing thread ends, the kernel lets go of whatever it still
 * traces, also of a thread that would not stop (ptrace(2)). Should we be stopped by a signal
 * meanwhile, that is put off until fn has returned (guard.h). 0 or a positive errno. */
int borrow_run(void (*fn)(void *arg), void *arg) MP_MUST_CHECK;

/* Finds and stops a thread within deadline_ms. On success the thread stands,
 * unchanged, with b->remote prepared for remote_begin; the caller gives it back
 * with borrow_return. 0; MP_E_NO_SAFE_POINT, MP_E_NO_THREAD, MP_E_STOPPED,
 * MP_E_TARGET_EXITED, MP_E_EPERM, MP_E_BUSY_TRACED, MP_E_INTERRUPTED: nothing in the
 * target was changed then. *b must be zeroed but for plan, log and wake_fd. */
int borrow_thread(struct borrow *b, unsigned deadline_ms, struct mp_failure *f) MP_MUST_CHECK;

/* The same for one thread, tid, and no other. stale: it is known to have been waiting for long,
 * so what its stack says of ld.so, allocators and the like is old, where it still waits. */
int borrow_one(struct borrow *b, pid_t tid, unsigned deadline_ms, bool stale, struct mp_failure *f) MP_MUST_CHECK;

/* Lets go of threads that were asked to stop and did so after all, when nobody waited any
 * more. To be called again and again, by the thread that called borrow_thread. */
void borrow_unstick(struct borrow *b);

/* Whether wake_fd is readable. */
bool borrow_interrupted(const struct borrow *b);

/* For refusals that come after borrow_thread: the thread, its name, and what it was in when it was
 * stopped, as the beginning of a sentence (BORROW_EXPLAIN bytes are enough). The code around
 * that goes to b->log. */
#define BORROW_EXPLAIN 320
void borrow_explain(const struct borrow *b, char *ret_text, size_t size);

/* Gives the thread back and takes the time. 0 or -errno (-ESRCH: it has ended). */
int borrow_return(struct borrow *b);

/* The same after a change that stays. 0 or MP_E_TARGET_EXECED, MP_E_TARGET_EXITED, MP_E_INJECT. */
int borrow_finish(struct borrow *b, struct mp_failure *f);

void borrow_release(struct borrow *b);

/* What became of a target of which a thread went away in our hands:
 * MP_E_TARGET_EXECED, MP_E_TARGET_EXITED, or MP_E_INJECT when it was only that
 * thread. Fills *f. */
int borrow_gone(const struct inject_plan *p, struct mp_failure *f);

/* Whether within 300 ms the process ends, or becomes another program; while a SIGKILL is on its
 * way, within 2.3 s. */
bool borrow_changes(const struct inject_plan *p);

/* Whether the thread that was borrowed last is there no more, or as a zombie. */
bool borrow_has_ended(const struct borrow *b);

#endif
