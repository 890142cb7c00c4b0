/* The thunk: two pages of their own through which the interpreter reaches the
 * agent on 3.6-3.11, and which outlive it where a frame is still inside.
 *
 *   base          +------------------+
 *                 | code (thunk.S)   |  r-x
 *   base + 4096   +------------------+
 *                 | struct thunk     |  rw-  starts with THUNK_MAGIC
 *   base + 8192   +------------------+
 *
 * Invariant: with enter, exit and trace 0 the pages refer to nothing of the
 * agent, only to `orig`, and act as a plain jump to it. All words but the ones
 * that make it inert are written under the GIL. */
#ifndef AGENT_THUNK_H
#define AGENT_THUNK_H

#define THUNK_PAGE 4096
#define THUNK_LEN (2 * THUNK_PAGE)
#define THUNK_ENTER 8
#define THUNK_EXIT 16
#define THUNK_ORIG 24
#define THUNK_INFLIGHT 32
#define THUNK_GEN 40
#define THUNK_TRACE 48
#define THUNK_QUIET_TID 56
#define THUNK_QUIET_SP 64
#define THUNK_QUIET_COUNT 72
#define THUNK_TID_OFFSET 80
#define THUNK_QUIET_FLOOR 88
#define THUNK_QUIET_LEFT 120

#define THUNK_CALL_SIZE 192 /* room for struct call on the C stack */

#ifndef __ASSEMBLER__
#include <stddef.h>
#include <stdint.h>

#define THUNK_MAGIC "MPTHUNK\1"

#define THUNK_CHAINED 1u /* someone above us calls `entry`: orig must stay as it is */

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
    uint32_t flags; /* THUNK_CHAINED */
    volatile uint64_t quiet_sp;
    volatile uint64_t quiet_count;
    uint64_t tid_offset;
    volatile uint64_t quiet_floor; /* 3.11: ... and above this one; 0: no bound */
    uint64_t entry;       /* what was put into the eval_frame slot */
    uint64_t trace_entry; /* what is put into c_tracefunc */
    int32_t owner_pid;    /* whose calls `inflight` counts: not a forked child's */
    uint32_t frame_offset; /* of `frame` in struct call */
    volatile int32_t quiet_left; /* 3.11: calls that pass before `enter` is asked again */
};
_Static_assert(offsetof(struct thunk, inflight) == THUNK_INFLIGHT, "the launcher's sweep reads it");
_Static_assert(offsetof(struct thunk, trace) == THUNK_TRACE, "thunk.S");
_Static_assert(offsetof(struct thunk, quiet_sp) == THUNK_QUIET_SP, "thunk.S");
_Static_assert(offsetof(struct thunk, tid_offset) == THUNK_TID_OFFSET, "thunk.S");
_Static_assert(offsetof(struct thunk, quiet_floor) == THUNK_QUIET_FLOOR, "thunk.S");
_Static_assert(offsetof(struct thunk, quiet_left) == THUNK_QUIET_LEFT, "thunk.S");

/* The template (thunk.S) that is copied into the code page. */
extern const char mp_thunk_text[] __attribute__((visibility("hidden")));
extern const char mp_thunk_eval2[] __attribute__((visibility("hidden")));
extern const char mp_thunk_eval3[] __attribute__((visibility("hidden")));
extern const char mp_thunk_eval311[] __attribute__((visibility("hidden")));
extern const char mp_thunk_trace[] __attribute__((visibility("hidden")));
extern const char mp_thunk_end[] __attribute__((visibility("hidden")));
#endif
#endif
