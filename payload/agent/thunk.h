/* The thunk: two pages of their own through which the interpreter reaches the
 * agent on 3.6-3.11, and which outlive it where a frame is still inside.
 *
 *   base          +------------------+
 *                 | code (thunk.S)   |  r-x
 *   base + 4096   +------------------+
 *                 | struct thunk     |  rw-  thunk_page.h
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
#define THUNK_IDLE 128

#define THUNK_CALL_SIZE 192 /* room for struct call on the C stack */

#ifndef __ASSEMBLER__
#include <stddef.h>

#include "thunk_page.h"

_Static_assert(offsetof(struct thunk, inflight) == THUNK_INFLIGHT, "thunk.S");
_Static_assert(offsetof(struct thunk, trace) == THUNK_TRACE, "thunk.S");
_Static_assert(offsetof(struct thunk, quiet_sp) == THUNK_QUIET_SP, "thunk.S");
_Static_assert(offsetof(struct thunk, tid_offset) == THUNK_TID_OFFSET, "thunk.S");
_Static_assert(offsetof(struct thunk, quiet_floor) == THUNK_QUIET_FLOOR, "thunk.S");
_Static_assert(offsetof(struct thunk, idle) == THUNK_IDLE, "thunk.S");
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
