/* Where the interpreter keeps what no API gives, per version. A row is believed
 * only after hook.c has compared it with live objects (MP_FAIL_LAYOUT). */
#ifndef AGENT_LAYOUT_H
#define AGENT_LAYOUT_H

#include <stdbool.h>
#include <stdint.h>

enum frame_kind {
    FRAME_OBJECT, /* up to 3.10: tstate->frame is a PyFrameObject */
    FRAME_CFRAME, /* 3.11, 3.12: tstate->cframe->current_frame is an _PyInterpreterFrame */
    FRAME_TSTATE  /* 3.13: tstate->current_frame */
};

/* Offsets in bytes; 0 where the version has no such field (no field used here
 * lies at offset 0, but code_in_frame, cframe_frame and cframe_tracing do). */
struct layout {
    uint8_t minor; /* of 3.minor */
    uint8_t frame_kind;
    /* PyCodeObject (Include/code.h, 3.8+: Include/cpython/code.h) */
    uint16_t code_flags, code_line, code_file, code_name, code_qualname;
    /* PyFrameObject, or _PyInterpreterFrame (Include/internal/pycore_frame.h) */
    uint16_t frame_back, frame_code, frame_globals, frame_lasti, frame_owner;
    /* PyThreadState (Include/pystate.h, Include/cpython/pystate.h) */
    uint16_t ts_frame; /* frame, cframe or current_frame */
    uint16_t ts_tracing, ts_use_tracing, ts_profilefunc, ts_tracefunc, ts_traceobj;
    uint16_t ts_gilstate; /* gilstate_counter; up to 3.11, verified by gil.c */
    uint16_t cframe_frame;
    uint16_t interp_eval; /* 3.6-3.8: PyInterpreterState.eval_frame as expected; verified */
    uint16_t possible;    /* ceval.tracing_possible as expected: 3.7 and 3.8 in _PyRuntime, 3.9 in PyInterpreterState; verified */
};

#define TS_INTERP 16 /* PyThreadState.interp, 3.6 to 3.13 */

const struct layout *layout_find(unsigned minor); /* NULL: version not known */

#define FIELD(type, base, off) (*(type *)((char *)(uintptr_t)(base) + (off)))

struct agent;
/* The frame that a thread state runs now (NULL: none), and its caller. Frames
 * that only mark an entry from C, or stand for no function (3.12+), are passed over. */
const void *frame_current(const void *tstate);
const void *frame_back(const void *frame);
const void *frame_code(const void *frame);
void *frame_globals(const void *frame);

#endif
