/* The table of layout.h, measured with offsetof against each version's own
 * headers (3.6.15, 3.7.16, 3.8.18, 3.9.18, 3.10.13, 3.11.7, 3.12.1, 3.13.0). */
#include "agent/agent.h"

static const struct layout table[] = {
    { .minor = 6, .frame_kind = FRAME_OBJECT,
      .code_flags = 32, .code_line = 36, .code_file = 96, .code_name = 104,
      .frame_back = 24, .frame_code = 32, .frame_globals = 48, .frame_lasti = 120,
      .ts_frame = 24, .ts_tracing = 40, .ts_use_tracing = 44,
      .ts_profilefunc = 48, .ts_tracefunc = 56, .ts_traceobj = 72, .ts_gilstate = 136, .interp_eval = 112 },
    { .minor = 7, .frame_kind = FRAME_OBJECT,
      .code_flags = 32, .code_line = 36, .code_file = 96, .code_name = 104,
      .frame_back = 24, .frame_code = 32, .frame_globals = 48, .frame_lasti = 104,
      .ts_frame = 24, .ts_tracing = 44, .ts_use_tracing = 48,
      .ts_profilefunc = 56, .ts_tracefunc = 64, .ts_traceobj = 80, .ts_gilstate = 160, .interp_eval = 464, .possible = 708 },
    { .minor = 8, .frame_kind = FRAME_OBJECT,
      .code_flags = 36, .code_line = 40, .code_file = 104, .code_name = 112,
      .frame_back = 24, .frame_code = 32, .frame_globals = 48, .frame_lasti = 104,
      .ts_frame = 24, .ts_tracing = 44, .ts_use_tracing = 48,
      .ts_profilefunc = 56, .ts_tracefunc = 64, .ts_traceobj = 80, .ts_gilstate = 160, .interp_eval = 568, .possible = 588 },
    { .minor = 9, .frame_kind = FRAME_OBJECT,
      .code_flags = 36, .code_line = 40, .code_file = 104, .code_name = 112,
      .frame_back = 24, .frame_code = 32, .frame_globals = 48, .frame_lasti = 104,
      .ts_frame = 24, .ts_tracing = 44, .ts_use_tracing = 48,
      .ts_profilefunc = 56, .ts_tracefunc = 64, .ts_traceobj = 80, .ts_gilstate = 160, .possible = 68 },
    /* 3.10: use_tracing moved into the CFrame, at its offset 0; ts_use_tracing is the cframe pointer */
    { .minor = 10, .frame_kind = FRAME_OBJECT,
      .code_flags = 36, .code_line = 40, .code_file = 104, .code_name = 112,
      .frame_back = 24, .frame_code = 32, .frame_globals = 48, .frame_lasti = 96,
      .ts_frame = 24, .ts_tracing = 44, .ts_use_tracing = 48,
      .ts_profilefunc = 56, .ts_tracefunc = 64, .ts_traceobj = 80, .ts_gilstate = 160 },
    { .minor = 11, .frame_kind = FRAME_CFRAME,
      .code_flags = 48, .code_line = 72, .code_file = 112, .code_name = 120, .code_qualname = 128,
      .frame_back = 48, .frame_code = 32, .frame_globals = 8, .frame_owner = 69,
      .ts_frame = 56, .cframe_frame = 8, .ts_tracing = 44, .ts_use_tracing = 56,
      .ts_profilefunc = 64, .ts_tracefunc = 72, .ts_traceobj = 88, .ts_gilstate = 136 },
    { .minor = 12, .frame_kind = FRAME_CFRAME,
      .code_flags = 48, .code_line = 68, .code_file = 112, .code_name = 120, .code_qualname = 128,
      .frame_back = 8, .frame_code = 0, .frame_globals = 24, .frame_owner = 70,
      .ts_frame = 56, .cframe_frame = 0, .ts_tracing = 44,
      .ts_profilefunc = 64, .ts_tracefunc = 72, .ts_traceobj = 88 },
    { .minor = 13, .frame_kind = FRAME_TSTATE,
      .code_flags = 48, .code_line = 68, .code_file = 112, .code_name = 120, .code_qualname = 128,
      .frame_back = 8, .frame_code = 0, .frame_globals = 24, .frame_owner = 70,
      .ts_frame = 72, .ts_tracing = 60,
      .ts_profilefunc = 80, .ts_tracefunc = 88, .ts_traceobj = 104 },
};

#define CO_NO_MONITORING_EVENTS 0x2000000 /* 3.13, Include/cpython/code.h */
#define OWNED_BY_CSTACK 3 /* 3.12+: an entry frame, no code (pycore_frame.h) */

const struct layout *layout_find(unsigned minor)
{
    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++)
        if (table[i].minor == minor)
            return &table[i];
    return NULL;
}

/* 3.13 puts a frame of its own between a class that is called and its __init__, to
 * check what that returns (_Py_InitCleanup, Python/specialize.c). Nothing that must
 * not be monitored counts. */
static bool is_shim(const void *f)
{
    return g.minor >= 13 && FIELD(uint32_t, frame_code(f), g.layout.code_flags) & CO_NO_MONITORING_EVENTS;
}

static const void *skip_entry_frames(const void *f)
{
    if (g.minor >= 12)
        while (f && (FIELD(uint8_t, f, g.layout.frame_owner) == OWNED_BY_CSTACK || is_shim(f)))
            f = FIELD(const void *, f, g.layout.frame_back);
    return f;
}

const void *frame_current(const void *tstate)
{
    const void *f = FIELD(const void *, tstate, g.layout.ts_frame);

    if (g.layout.frame_kind == FRAME_CFRAME)
        f = f ? FIELD(const void *, f, g.layout.cframe_frame) : NULL;
    return skip_entry_frames(f);
}

const void *frame_back(const void *frame)
{
    return skip_entry_frames(FIELD(const void *, frame, g.layout.frame_back));
}

const void *frame_code(const void *frame)
{
    return FIELD(const void *, frame, g.layout.frame_code);
}

void *frame_globals(const void *frame)
{
    return FIELD(void *, frame, g.layout.frame_globals);
}
