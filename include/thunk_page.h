/* The writable page of a thunk (payload/agent/thunk.h), which outlives the agent where it
 * must, and is then read by the launcher's sweep. */
#ifndef MP_THUNK_PAGE_H
#define MP_THUNK_PAGE_H

#include <stdint.h>

#define THUNK_MAGIC "MPTHUNK\1"

#define THUNK_CHAINED 1u /* someone above us calls `entry`: orig must stay as it is */
#define THUNK_TRACED 2u  /* someone may have kept `trace_entry`: gone only when no word in memory is it any more */
#define THUNK_COPIED 4u  /* by a fork, inside traced calls: as THUNK_TRACED, for all that is known; stale words on stacks don't count */

struct thunk {
    char magic[8];
    volatile uint64_t enter; /* int (frame, struct call *, tstate): 1 when exit is wanted */
    volatile uint64_t exit;  /* void (struct call *, result) */
    volatile uint64_t orig;  /* the eval-frame function that was there before */
    volatile uint64_t inflight; /* calls of orig that have not returned */
    volatile uint64_t gen;   /* raised with every hook and unhook: a call of another one gets no exit */
    volatile uint64_t trace; /* the agent's Py_tracefunc, or 0 */
    /* Everything that thread quiet_tid calls below stack address quiet_sp is
     * deeper than what is traced: straight on to orig. Written under the GIL. */
    volatile uint32_t quiet_tid;
    uint32_t flags; /* THUNK_* */
    volatile uint64_t quiet_sp;
    volatile uint64_t quiet_count;
    uint64_t tid_offset;
    volatile uint64_t quiet_floor; /* 3.11: ... and above this one; 0: no bound */
    uint64_t entry;       /* what was put into the eval_frame slot */
    uint64_t trace_entry; /* what is put into c_tracefunc */
    int32_t owner_pid;    /* whose calls `inflight` counts: not a forked child's */
    uint32_t frame_offset; /* of `frame` in struct call */
    volatile int32_t quiet_left; /* 3.11: calls that pass before `enter` is asked again */
    /* 1: the launcher is about to unmap the pages, and no agent may take them. The launcher
     * writes it, then looks for an agent; an agent is mapped, then reads it. So one of the
     * two sees the other. */
    volatile uint32_t claimed;
    volatile uint64_t idle; /* calls while it was inert: who still has its address uses it */
    int64_t raised;         /* up to 3.9: how often tracing_possible is to be lowered, for us (payload/agent/lines.c) */
};

#endif
