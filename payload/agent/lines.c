/* --lines: a record at each line that a traced call executes.
 *
 * 3.12+: the code of a traced call gets local LINE events at its first traced
 * entry. They fire at any depth; the callback takes only lines of the call that
 * is the innermost traced one. Where many came that were not, no traced call of the
 * code being under way, its lines are switched off one by one as they come, and all on
 * again at its next traced entry.
 *
 * Before: a trace function on threads that are inside a traced call, and only
 * while its own frame runs. enter sets c_tracefunc for a recorded call and clears
 * it for others (CALL_GUARD is the first call below the depth, so that all that
 * is deeper runs untraced); exit puts back what was. The fields are written
 * directly: PyEval_SetTrace would raise an audit event, which can run Python
 * code, at every call. What else it does is done once at install:
 *   - up to 3.9 line events need `tracing_possible` > 0 (Python/ceval.c), which
 *     counts threads: PyEval_SetTrace on our own thread raises it, and it is
 *     lowered again at uninstall;
 *   - the audit event is raised once, and a veto respected.
 * c_tracefunc points into the thunk page, never into the agent: between reading and
 * calling it, 3.11's call_trace allocates and all versions' call_exc_trace makes the
 * exception, which may take as long as Python code likes, with others having the GIL.
 * So it is ours inside a call that the thunk counts, and nowhere else, to the end: the page
 * may go when that count is 0. Another tool's function is never displaced. */
#include "agent/python.h"

#define TRACE_LINE 2 /* PyTrace_LINE, Include/cpython/pystate.h */
#define SEEN_MIN 4096u
#define CODES_MIN 512u
#define CODES_MAX 16384u /* code objects kept alive for their LINE events */
#define FAR_MAX 256u     /* lines executed outside of traced calls, since the last one */

static uint64_t *seen; /* (code id << 32 | line) + 1: visited before; open addressing, 0 is empty */
static uint32_t nseen, seen_used;
static struct armed_code {
    const void *code; /* owned */
    uint32_t far;     /* lines executed outside of traced calls, since the last one */
    bool off;         /* some are switched off */
} *codes; /* 3.12+: with LINE events; open addressing */
static uint32_t ncodes, codes_used;
static uint64_t trace_entry; /* 0: not armed */
static int32_t *possible;    /* up to 3.9: tracing_possible itself; NULL where it is not known */
static volatile uint32_t busy, busy_told;

bool lines_busy_news(void)
{
    uint32_t now = busy;
    bool news = now != busy_told;

    busy_told = now;
    return news;
}

/* ---- records ------------------------------------------------------------------ */

static uint32_t hash64(uint64_t v)
{
    return (uint32_t)((v * 0x9e3779b97f4a7c15ull) >> 36);
}

static void seen_put(uint64_t key)
{
    uint32_t i = hash64(key) & (nseen - 1);

    while (seen[i])
        i = (i + 1) & (nseen - 1);
    seen[i] = key;
}

static void seen_grow(void)
{
    uint64_t *old = seen, *fresh = mem_map(2 * nseen * sizeof(*seen), true);
    uint32_t n = nseen;

    if (!fresh)
        return;
    seen = fresh;
    nseen = 2 * n;
    for (uint32_t i = 0; i < n; i++)
        if (old[i])
            seen_put(old[i]);
    mem_unmap(old);
}

/* Whether this is the first visit of the line; full memory makes all later ones old. */
static bool line_first(uint32_t code_id, uint32_t line)
{
    uint64_t key = ((uint64_t)code_id << 32 | line) + 1;
    uint32_t i = hash64(key) & (nseen - 1);

    for (; seen[i]; i = (i + 1) & (nseen - 1))
        if (seen[i] == key)
            return false;
    if (2 * seen_used >= nseen)
        seen_grow();
    if (4 * seen_used >= 3 * nseen)
        return false;
    seen_put(key);
    seen_used++;
    return true;
}

void line_record(struct thread *th, struct code *code, uint32_t line, unsigned depth)
{
    bool first = line_first(code->id, line);
    struct mp_record *rec;
    struct reading r;
    struct rollup roll;

    meter_exit(th, NULL, &r);
    rec = ring_reserve(th);
    if (!rec)
        return;
    *rec = (struct mp_record){
        .time_ns = r.time,
        .code_id = code->id,
        .thread_id = th->id,
        .type = MP_REC_LINE,
        .flags = (r.has_rss ? MP_REC_HAS_RSS : 0) | (r.has_own ? MP_REC_HAS_OWN | MP_REC_HAS_PEAK : 0),
        .depth = (uint16_t)depth,
        .line = line,
        .rss_pages = (uint32_t)r.rss,
        .own_pages = (uint32_t)(r.faults - th->line_faults),
        .peak_bytes = r.peak,
    };
    th->line_faults = r.faults;
    /* The first visit is what the original's table shows: always measured. */
    if ((first || rollup_wanted(r.time, r.rss, code)) && meter_rollup(th, 1, &roll)) {
        rec->flags |= MP_REC_HAS_USS;
        rec->uss_bytes = roll.uss;
        rec->swap_bytes = roll.swap;
    }
    ring_commit(th);
}

/* ---- 3.12 and later ---------------------------------------------------------------- */

static struct armed_code *codes_place(const void *pycode)
{
    uint32_t i = hash64((uintptr_t)pycode >> 4) & (ncodes - 1);

    while (codes[i].code && codes[i].code != pycode)
        i = (i + 1) & (ncodes - 1);
    return &codes[i];
}

static bool codes_grow(void)
{
    struct armed_code *old = codes, *fresh;
    uint32_t n = ncodes;

    if (n >= CODES_MAX || !(fresh = mem_map(2 * n * sizeof(*codes), true)))
        return false;
    codes = fresh;
    ncodes = 2 * n;
    for (uint32_t i = 0; i < n; i++)
        if (old[i].code)
            *codes_place(old[i].code) = old[i];
    mem_unmap(old);
    return true;
}

/* What answered DISABLE comes back with new events only. */
static void lines_again(struct armed_code *c)
{
    void *code = (void *)(uintptr_t)c->code;
    struct py_error e;

    py_error_save(&e);
    if (!monitor_set_lines(code, false) && !monitor_set_lines(code, true))
        c->off = false;
    py_error_restore(&e);
}

bool lines_far(const void *pycode)
{
    struct armed_code *place = codes_place(pycode);
    const struct code *c;

    if (!place->code || ++place->far <= FAR_MAX)
        return false;
    c = code_known(pycode);
    if (c && c->active)
        place->far = 0;
    else
        place->off = true;
    return place->off;
}

/* Arms a code object once; the reference keeps its address and lets uninstall
 * take the events back. Setting events inside PY_START of the same code is what
 * coverage.py does as well: they fire from this very call on. */
void lines_code(const void *pycode)
{
    struct armed_code *place = codes_place(pycode);
    struct py_error e;

    if (place->code) {
        if (unlikely(place->off))
            lines_again(place);
        place->far = 0;
        return;
    }
    if (2 * codes_used >= ncodes) {
        if (!codes_grow() && 4 * codes_used >= 3 * ncodes)
            return;
        place = codes_place(pycode);
    }
    py_error_save(&e);
    if (!monitor_set_lines((void *)(uintptr_t)pycode, true)) {
        py_incref((void *)(uintptr_t)pycode);
        *place = (struct armed_code){ .code = pycode };
        codes_used++;
    }
    py_error_restore(&e);
}

static void codes_disarm(void)
{
    for (uint32_t i = 0; i < ncodes; i++)
        if (codes[i].code) {
            void *code = (void *)(uintptr_t)codes[i].code;

            codes[i].code = NULL; /* its end may run code of the target's */
            monitor_set_lines(code, false);
            py_decref(code);
        }
    codes_used = 0;
}

/* ---- up to 3.11 ---------------------------------------------------------------------- */

static void *this_tstate(void)
{
    return PY_HAS(_PyThreadState_UncheckedGet) ? PY(_PyThreadState_UncheckedGet, void *(*)(void))() : py_tstate();
}

/* use_tracing follows from the two functions, as PyEval_SetTrace computes it: an
 * int of the thread state up to 3.9, a word of its current CFrame in 3.10 (int)
 * and 3.11 (a byte, 255: a mask on opcodes). Frames that return hand the word to
 * their caller's CFrame. */
static void update_use_tracing(char *ts)
{
    bool on = FIELD(void *, ts, g.layout.ts_tracefunc) || FIELD(void *, ts, g.layout.ts_profilefunc);

    if (g.minor <= 9)
        FIELD(int32_t, ts, g.layout.ts_use_tracing) = on;
    else if (g.minor == 10)
        FIELD(int32_t, FIELD(void *, ts, g.layout.ts_use_tracing), 0) = on;
    else
        FIELD(uint8_t, FIELD(void *, ts, g.layout.ts_use_tracing), 0) =
            on && FIELD(int32_t, ts, g.layout.ts_tracing) <= 0 ? 255 : 0;
}

static bool use_tracing(char *ts)
{
    if (g.minor <= 9)
        return FIELD(int32_t, ts, g.layout.ts_use_tracing) != 0;
    return FIELD(uint8_t, FIELD(void *, ts, g.layout.ts_use_tracing), 0) != 0;
}

static void set_tracefunc(char *ts, uint64_t f)
{
    FIELD(uint64_t, ts, g.layout.ts_tracefunc) = f;
    update_use_tracing(ts);
}

/* A PyEval_SetTrace of somebody's took our function, which is not counted, for one that is: it
 * replaced it (up), or put it back. tracing_possible is set right at once, for where it is 0 nobody's lines
 * are told. From 3.8 on PyEval_SetTrace may run audit hooks: where that is the only way, it is
 * done at the end. ts: the running thread's. */
static void recount(char *ts, bool up)
{
    uint64_t now = FIELD(uint64_t, ts, g.layout.ts_tracefunc);

    if (g.minor > 9)
        return;
    if (possible) {
        *possible += up ? 1 : -1;
    } else if (g.minor > 7) {
        thunk_page()->raised += up ? -1 : 1;
    } else {
        set_tracefunc(ts, up ? 0 : trace_entry);
        PY(PyEval_SetTrace, void (*)(uint64_t, void *))(up ? trace_entry : 0, FIELD(void *, ts, g.layout.ts_traceobj));
        set_tracefunc(ts, now);
    }
}

/* Arms or disarms the running thread. Someone else's function stays. */
static void arm(struct thread *th, char *ts, bool on)
{
    uint64_t now = FIELD(uint64_t, ts, g.layout.ts_tracefunc);

    if (th->armed && now != trace_entry) { /* a settrace call replaced ours */
        recount(ts, true);
        thunk_traced();
        th->armed = false;
    } else if (!th->armed && now && now == trace_entry) { /* and put it back */
        recount(ts, false);
        thunk_traced();
        th->armed = true;
    }
    if (on == th->armed || !trace_entry)
        return;
    if (on && now) {
        if (!th->lines_busy)
            busy++;
        th->lines_busy = true;
        return;
    }
    set_tracefunc(ts, on ? trace_entry : 0);
    th->armed = on;
}

void lines_enter(struct thread *th, struct call *c, char *tstate)
{
    c->prev_armed = th->armed;
    c->prev_line_code = th->line_code;
    c->prev_line_depth = th->line_depth;
    arm(th, g.minor >= 9 ? tstate : this_tstate(), c->kind == CALL_RECORD);
    th->line_code = c->code;
    th->line_depth = c->depth;
}

/* A call returns when the hook has been switched off. */
void lines_leave(struct thread *th)
{
    arm(th, this_tstate(), false);
}

/* Greenlets return in any order: the call that was armed when this one began may be over. */
void lines_exit(struct thread *th, const struct call *c)
{
    char *ts = this_tstate();

    arm(th, ts, c->prev_armed && (!g.greenlets || frame_current(ts) == c->prev_frame));
    th->line_code = c->prev_line_code;
    th->line_depth = c->prev_line_depth;
}

/* Is it the armed call's own frame? On 3.11 the interpreter inlines some calls
 * (__getitem__) past the hook; their lines are not that call's. */
static bool own_frame(const struct thread *th, const void *frame)
{
    const void *code;
    bool same;

    if (g.layout.frame_kind == FRAME_OBJECT)
        return frame == th->top_frame;
    code = PY(PyFrame_GetCode, void *(*)(const void *))(frame);
    same = code_known(code) == th->line_code;
    py_decref((void *)(uintptr_t)code);
    return same;
}

/* A Py_tracefunc, reached through the thunk page. */
static int on_trace(PyObj *self, void *frame, int what, PyObj *arg)
{
    struct thread *th;

    (void)self, (void)arg;
    if (unlikely(!*g.armed)) {
        hook_disarmed();
        return 0;
    }
    g.line_events++;
    th = thread_current();
    if (what != TRACE_LINE || !th || !th->armed || !own_frame(th, frame))
        return 0;
    line_record(th, th->line_code, (uint32_t)PY(PyFrame_GetLineNumber, int (*)(void *))(frame), th->line_depth);
    return 0;
}

/* PyEval_SetTrace on the agent's own thread; -1 when vetoed, with the exception set.
 * 3.9-3.11 have one that says so. 3.8's tells the program's stderr instead of us: so
 * the event is raised before it, and a hook that refuses is not asked again. */
static int set_own_trace(char *ts, uint64_t f)
{
    if (PY_HAS(_PyEval_SetTrace))
        return PY(_PyEval_SetTrace, int (*)(void *, uint64_t, void *))(ts, f, NULL);
    if (PY_HAS(PySys_Audit) && PY(PySys_Audit, int (*)(const char *, const char *, ...))("sys.settrace", NULL))
        return -1;
    PY(PyEval_SetTrace, void (*)(uint64_t, void *))(f, NULL);
    return FIELD(uint64_t, ts, g.layout.ts_tracefunc) == f || !PY(PyErr_Occurred, void *(*)(void))() ? 0 : -1;
}

static int32_t *possible_expected(void)
{
    uint64_t base = g.minor == 9 ? (uint64_t)(uintptr_t)g.interp : g.sym[MP_SYM__PyRuntime];

    return g.layout.possible && base ? &FIELD(int32_t, base, g.layout.possible) : NULL;
}

static int trace_install(void)
{
    uint64_t entry = thunk_page()->trace_entry;
    char *ts = py_tstate(), text[160];
    int32_t *word = possible_expected(), before = word ? *word : 0;

    if (g.slots_before.trace_threads)
        return fail_set(MP_FAIL_TRACER, 0, "a debugger or coverage tool holds the trace slot", NULL);
    if (set_own_trace(ts, entry)) {
        py_error_text(text, sizeof(text));
        return fail_set(MP_FAIL_AUDIT, 0, "sys.settrace was refused", text);
    }
    if (FIELD(uint64_t, ts, g.layout.ts_tracefunc) != entry || !use_tracing(ts)) {
        set_own_trace(ts, 0);
        return fail_set(MP_FAIL_LAYOUT, 0, "c_tracefunc is not where it should be", NULL);
    }
    possible = word && before >= 0 && *word == before + 1 ? word : NULL;
    set_tracefunc(ts, 0); /* behind its back: tracing_possible stays raised */
    thunk_page()->raised++;
    thunk_page()->trace = (uint64_t)(uintptr_t)on_trace;
    trace_entry = entry;
    return 0;
}

/* How many threads have a trace function, counted or not. */
static int32_t tracers(void)
{
    void *ts = PY(PyInterpreterState_ThreadHead, void *(*)(void *))(g.interp);
    int32_t n = 0;

    for (; ts; ts = PY(PyThreadState_Next, void *(*)(void *))(ts))
        n += FIELD(uint64_t, ts, g.layout.ts_tracefunc) != 0;
    return n;
}

/* tracing_possible counts threads. Install has added one; what others have added and subtracted for
 * our function is in the account, too, where it was not set right at once. It is never lowered below
 * what the threads need: too much costs them a look, with too little they are told of no line.
 * On the agent's own thread; a forked child has the parent's count. */
void lines_lower(struct thunk *t)
{
    char *own = py_tstate();

    for (; t->raised && g.minor <= 9; t->raised += t->raised < 0 ? 1 : -1) {
        if (possible && t->raised > 0 && *possible <= tracers())
            continue;
        set_tracefunc(own, t->raised > 0 ? t->trace_entry : 0);
        set_own_trace(own, t->raised > 0 ? 0 : t->trace_entry);
        set_tracefunc(own, 0);
        py_error_clear();
    }
}

/* From all threads; how many had it. */
static unsigned take_out(uint64_t entry)
{
    void *ts = PY(PyInterpreterState_ThreadHead, void *(*)(void *))(g.interp);
    unsigned found = 0;

    for (; ts; ts = PY(PyThreadState_Next, void *(*)(void *))(ts))
        if (FIELD(uint64_t, ts, g.layout.ts_tracefunc) == entry) {
            set_tracefunc(ts, 0);
            found++;
        }
    return found;
}

unsigned lines_cure(uint64_t entry)
{
    trace_entry = 0; /* exits of calls put nothing back */
    return take_out(entry);
}

/* The threads that should have it, and no more after this. */
static unsigned disarm_all(void)
{
    unsigned armed = 0;

    threads_reap();
    for (uint32_t i = 0; i < g.nthread; i++) {
        armed += g.thread[i]->armed && load_acquire(&g.thread[i]->state) == THREAD_LIVE;
        g.thread[i]->armed = false;
    }
    return armed;
}

/* The hook pauses or is back: no thread is inside a traced call. Where fewer threads have our
 * function than should, others replaced it; where more, others put it there. */
void lines_pause(void)
{
    unsigned found = take_out(trace_entry), armed = disarm_all();

    if (found != armed)
        thunk_traced();
    for (; found != armed; found += found < armed ? 1 : -1)
        recount(py_tstate(), found < armed);
}

static void trace_uninstall(void)
{
    lines_pause();
    trace_entry = 0; /* what follows may run an audit hook, and others meanwhile: nobody is armed by them */
}

/* ---- both ------------------------------------------------------------------------------- */

int lines_install(void)
{
    trace_entry = 0;
    possible = NULL;
    nseen = SEEN_MIN;
    seen_used = ncodes = codes_used = busy = busy_told = 0;
    seen = mem_map(nseen * sizeof(*seen), true);
    if (!seen)
        return fail_set(MP_FAIL_MEMORY, SYS_ENOMEM, "no memory", NULL);
    if (g.hook == MP_HOOK_THUNK)
        return trace_install();
    codes = mem_map(CODES_MIN * sizeof(*codes), true);
    if (!codes)
        return fail_set(MP_FAIL_MEMORY, SYS_ENOMEM, "no memory", NULL);
    ncodes = CODES_MIN;
    return 0;
}

void lines_uninstall(void)
{
    if (g.hook == MP_HOOK_THUNK)
        trace_uninstall();
    else
        codes_disarm();
}
