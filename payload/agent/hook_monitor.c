/* sys.monitoring hook, 3.12 and 3.13: six events of every function. Callbacks are
 * C functions with METH_FASTCALL; they return None, never raise, never let go of
 * the GIL.
 *
 * Depth is counted by events: call, resume and throw go one deeper, return, yield
 * and unwind come back (facts/cpython.md, 4: they balance). The origin is wherever
 * the thread was at the hook; a return from the base lowers the base. Tracked calls
 * stand in the thread's shadow stack, each with its depth; most events only move
 * the counter, because they are deeper than the limit. */
#include "agent/python.h"

#define METH_FASTCALL 0x80
#define TOOL_NAME "mempulse"
#define NEVENTS 6

typedef PyObj *(*fastcall_fn)(PyObj *self, PyObj *const *args, int64_t nargs);
struct method_def { /* PyMethodDef, Include/methodobject.h */
    const char *name;
    fastcall_fn function;
    int flags;
    const char *doc;
};

static PyObj *monitoring;       /* sys.monitoring */
static PyObj *none, *disable;
static int tool = -1;
static struct {
    PyObj *event; /* an int: 1 << id, as sys.monitoring.events has it */
    PyObj *callback;
    bool registered;
} slots[NEVENTS + 1]; /* the last: LINE */

/* ---- events ------------------------------------------------------------------- */

static void *current_globals(const void *pycode)
{
    const void *f = frame_current(py_tstate());

    return f && frame_code(f) == pycode ? frame_globals(f) : NULL;
}

static struct code *code_of(const void *pycode)
{
    struct code *c = code_known(pycode);

    return likely(c) ? c : code_find(pycode, current_globals(pycode));
}

/* First event of a thread under --root: is a root already on its stack? Its depth
 * then is what the counter would have shown. */
static void find_pre_root(struct thread *th)
{
    const void *f = frame_current(py_tstate());
    int32_t depth = th->depth;

    th->fresh = false;
    for (f = f ? frame_back(f) : NULL; f; f = frame_back(f)) {
        depth--;
        if (code_find(frame_code(f), frame_globals(f))->flags & CODE_ROOT) {
            th->pre_root = th->in_root = true;
            thread_set_base(th, depth);
            return;
        }
    }
}

/* ---- with greenlets ------------------------------------------------------------- */

/* Greenlets switch stacks under one thread: counting events would add the depths
 * of all that are suspended. Where greenlet is loaded depth is absolute instead,
 * the number of frames below, walked as far as the limit; and a tracked call is
 * found again by its frame, not by its place. Returns the running frame's depth,
 * from 0, or more than the limit; *ret_frame is that frame. */
#define WALK_MAX (1 << 17)

static int32_t depth_by_frames(struct thread *th, const void **ret_frame)
{
    const void *f = frame_current(py_tstate());
    int32_t n = -1, max = th->absolute ? th->limit + 1 : WALK_MAX;

    *ret_frame = f;
    for (; f && n <= max; f = frame_back(f))
        n++;
    if (!th->absolute) {
        th->absolute = true;
        th->nshadow = 0;
        th->top_abs = DEPTH_NONE;
        if (!g.roots)
            thread_set_base(th, n - 1);
    } else if (!g.roots && n - 1 < th->base) {
        thread_set_base(th, n - 1);
    }
    return n;
}

static void drop_shadow(struct thread *th, uint32_t i)
{
    for (th->nshadow--; i < th->nshadow; i++)
        th->shadow[i] = th->shadow[i + 1];
}

static bool leave_by_frame(struct thread *th, const void *pycode, unsigned flags)
{
    const void *f = frame_current(py_tstate());

    for (uint32_t i = th->nshadow; i-- > 0;) {
        struct call *c = &th->shadow[i];

        if (c->prev_frame != f)
            continue;
        if (c->kind == CALL_RECORD && c->frame == pycode)
            call_end(c, flags);
        if (th->base != c->prev_base || th->in_root != c->prev_root) {
            th->in_root = c->prev_root;
            thread_set_base(th, c->prev_base);
        }
        drop_shadow(th, i);
        return true;
    }
    return false;
}

static struct call *shadow_push(struct thread *th, const void *pycode, struct code *code, enum call_kind kind)
{
    struct call *c;

    if (th->nshadow == SHADOW_MAX) {
        g.lost_depth++;
        return NULL;
    }
    c = &th->shadow[th->nshadow++];
    thread_touch(th, c);
    thread_touch(th, (const char *)(c + 1) - 1);
    c->thread = th;
    c->code = code;
    c->frame = pycode;
    c->depth_abs = th->depth;
    c->prev_frame = g.greenlets ? frame_current(py_tstate()) : NULL;
    c->prev_base = th->base;
    c->prev_root = th->in_root;
    c->kind = (uint8_t)kind;
    c->flags = 0;
    th->top_abs = th->depth;
    return c;
}

static void enter_near(struct thread *th, const void *pycode, unsigned flags)
{
    struct code *code = code_of(pycode);
    enum call_kind kind = code->flags & CODE_SCOPE ? CALL_RECORD : CALL_PASS;
    struct call *c;

    if (unlikely(th->fresh && g.roots))
        find_pre_root(th);
    if (g.roots && code->flags & CODE_ROOT)
        kind = CALL_RECORD;
    else if (th->depth > th->limit || th->limit == DEPTH_NONE)
        return;
    else if (!g.roots && code->flags & CODE_BASE && th->depth == th->base + 1)
        kind = CALL_BASE;
    if (kind == CALL_PASS || !(c = shadow_push(th, pycode, code, kind)))
        return;
    if (kind == CALL_BASE || (g.roots && code->flags & CODE_ROOT)) {
        th->in_root = g.roots;
        thread_set_base(th, th->depth);
    }
    if (kind == CALL_BASE)
        return;
    c->depth = (uint16_t)(th->depth - th->base);
    c->flags = (uint16_t)flags;
    if (g.lines)
        lines_code(pycode);
    call_begin(th, c);
}

static inline void event_enter(const void *pycode, unsigned flags)
{
    struct thread *th;

    if (unlikely(!*g.armed))
        return;
    th = thread_current();
    if (unlikely(!th) || unlikely(th->skip))
        return;
    g.events++;
    th->depth++;
    if (unlikely(g.greenlets)) {
        const void *frame;

        th->depth = depth_by_frames(th, &frame);
        if (!frame || frame_code(frame) != pycode)
            return;
    }
    if (likely(th->depth > th->limit) && !g.roots)
        return;
    enter_near(th, pycode, flags);
}

static void leave_near(struct thread *th, const void *pycode, int32_t depth, unsigned flags)
{
    struct call *c;

    while (th->nshadow && th->shadow[th->nshadow - 1].depth_abs >= depth) {
        c = &th->shadow[--th->nshadow];
        th->top_abs = th->nshadow ? th->shadow[th->nshadow - 1].depth_abs : DEPTH_NONE;
        if (c->kind == CALL_RECORD && c->depth_abs == depth && c->frame == pycode)
            call_end(c, flags);
        if (th->base != c->prev_base || th->in_root != c->prev_root) {
            th->in_root = c->prev_root;
            thread_set_base(th, c->prev_base);
        }
    }
    if (depth > th->base || th->base == DEPTH_NONE)
        return;
    if (!g.roots) {
        thread_set_base(th, depth - 1);
    } else { /* the root that was there before the hook has returned */
        th->in_root = th->pre_root = false;
        thread_set_base(th, DEPTH_NONE);
    }
}

static inline void event_leave(const void *pycode, unsigned flags)
{
    struct thread *th;
    int32_t depth;

    if (unlikely(!*g.armed))
        return;
    th = thread_current();
    if (unlikely(!th) || unlikely(th->skip))
        return;
    g.events++;
    depth = th->depth--;
    if (unlikely(g.greenlets)) {
        leave_by_frame(th, pycode, flags);
        return;
    }
    if (likely(depth > th->limit))
        return;
    leave_near(th, pycode, depth, flags);
}

/* In a forked child the hook is inert for good: DISABLE makes it free as well.
 * It is not allowed for throw and unwind (Python/instrumentation.c). */
static inline PyObj *answer(void)
{
    return likely(*g.armed) ? none : disable;
}

static PyObj *on_start(PyObj *self, PyObj *const *args, int64_t n)
{
    (void)self, (void)n;
    event_enter(args[0], 0);
    return answer();
}
static PyObj *on_resume(PyObj *self, PyObj *const *args, int64_t n)
{
    (void)self, (void)n;
    event_enter(args[0], MP_REC_RESUMED);
    return answer();
}
static PyObj *on_throw(PyObj *self, PyObj *const *args, int64_t n)
{
    (void)self, (void)n;
    event_enter(args[0], MP_REC_RESUMED);
    return none;
}
static PyObj *on_return(PyObj *self, PyObj *const *args, int64_t n)
{
    (void)self, (void)n;
    event_leave(args[0], 0);
    return answer();
}
static PyObj *on_yield(PyObj *self, PyObj *const *args, int64_t n)
{
    (void)self, (void)n;
    event_leave(args[0], MP_REC_YIELDED);
    return answer();
}
static PyObj *on_unwind(PyObj *self, PyObj *const *args, int64_t n)
{
    (void)self, (void)n;
    event_leave(args[0], MP_REC_RAISED);
    return none;
}

/* A line of the running call is recorded only if that call is: the code's line
 * events fire at every depth. */
static PyObj *on_line(PyObj *self, PyObj *const *args, int64_t n)
{
    struct thread *th;

    (void)self, (void)n;
    if (unlikely(!*g.armed) || !(th = thread_current()) || th->skip)
        return answer();
    g.line_events++;
    if (th->nshadow) {
        const struct call *c = &th->shadow[th->nshadow - 1];

        bool running = g.greenlets ? c->prev_frame == frame_current(py_tstate()) : c->depth_abs == th->depth;

        if (c->kind == CALL_RECORD && running && c->frame == args[0])
            line_record(th, c->code, (uint32_t)py_long(args[1]), c->depth);
    }
    return none;
}

static const struct {
    const char *event;
    struct method_def def;
} rows[NEVENTS + 1] = {
    { "PY_START", { "mempulse_start", on_start, METH_FASTCALL, NULL } },
    { "PY_RESUME", { "mempulse_resume", on_resume, METH_FASTCALL, NULL } },
    { "PY_THROW", { "mempulse_throw", on_throw, METH_FASTCALL, NULL } },
    { "PY_RETURN", { "mempulse_return", on_return, METH_FASTCALL, NULL } },
    { "PY_YIELD", { "mempulse_yield", on_yield, METH_FASTCALL, NULL } },
    { "PY_UNWIND", { "mempulse_unwind", on_unwind, METH_FASTCALL, NULL } },
    { "LINE", { "mempulse_line", on_line, METH_FASTCALL, NULL } },
};

/* ---- sys.monitoring ------------------------------------------------------------- */

/* Drops a result; false if there was none, with the exception still set. */
static bool done(PyObj *result)
{
    if (!result)
        return false;
    py_decref(result);
    return true;
}

/* The tool's name as this process sees it: 0 free, 1 somebody's, 2 ours. */
static int tool_user(PyObj *mon, int id)
{
    PyObj *name = py_method(mon, "get_tool", "i", id);
    char buf[16];
    bool cut;
    int user;

    if (!name) {
        py_error_clear();
        return 1;
    }
    user = name == PY_NONE ? 0 : 1;
    if (user && py_type(name) == PY_STR_TYPE && py_str_copy(name, buf, sizeof(buf), false, &cut) == 8 &&
        !memcmp(buf, TOOL_NAME, 8))
        user = 2;
    py_decref(name);
    return user;
}

uint32_t monitor_tools(void)
{
    PyObj *mon = py_sys("monitoring");
    uint32_t bits = 0;

    for (int i = 0; mon && i < 6; i++)
        if (tool_user(mon, i))
            bits |= 1u << i;
    return bits;
}

static int claim_tool(void)
{
    static const int ids[] = { 4, 3 };

    for (int i = 0; i < 2; i++)
        if (!tool_user(monitoring, ids[i]) && done(py_method(monitoring, "use_tool_id", "is", ids[i], TOOL_NAME))) {
            tool = ids[i];
            return 0;
        }
    py_error_clear();
    return fail_set(MP_FAIL_TOOL_IDS, 0, "sys.monitoring tool ids 3 and 4 are both taken", NULL);
}

static int make_callbacks(void)
{
    PyObj *events = py_getattr(monitoring, "events");

    for (int i = 0; events && i <= NEVENTS; i++) {
        slots[i].event = py_getattr(events, rows[i].event);
        slots[i].callback = PY(PyCFunction_NewEx, PyObj *(*)(const struct method_def *, PyObj *, PyObj *))(
            &rows[i].def, NULL, NULL);
        if (!slots[i].event || !slots[i].callback)
            break;
    }
    if (events)
        py_decref(events);
    if (slots[NEVENTS].event && slots[NEVENTS].callback)
        return 0;
    py_error_clear();
    return fail_set(MP_FAIL_PYTHON, 0, "can't make the monitoring callbacks", NULL);
}

static int register_callbacks(void)
{
    char text[160];
    long set = 0;

    for (int i = 0; i <= NEVENTS; i++) {
        if (i == NEVENTS && !g.lines)
            break;
        /* raises the audit event sys.monitoring.register_callback: a hook may veto */
        if (!done(py_method(monitoring, "register_callback", "iOO", tool, slots[i].event, slots[i].callback))) {
            py_error_text(text, sizeof(text));
            return fail_set(MP_FAIL_AUDIT, 0, "sys.monitoring.register_callback was refused", text);
        }
        slots[i].registered = true;
        if (i < NEVENTS)
            set |= py_long(slots[i].event);
    }
    if (done(py_method(monitoring, "set_events", "il", tool, set)))
        return 0;
    py_error_text(text, sizeof(text));
    return fail_set(MP_FAIL_PYTHON, 0, "sys.monitoring.set_events", text);
}

int monitor_set_lines(PyObj *code, bool on)
{
    long events = on ? py_long(slots[NEVENTS].event) : 0;

    if (done(py_method(monitoring, "set_local_events", "iOl", tool, code, events)))
        return 0;
    py_error_clear();
    return -1;
}

int monitor_install(void)
{
    int err;

    monitoring = py_sys("monitoring");
    if (!monitoring)
        return fail_set(MP_FAIL_PYTHON, 0, "there is no sys.monitoring", NULL);
    py_incref(monitoring);
    none = PY_NONE;
    disable = py_getattr(monitoring, "DISABLE");
    for (int i = 3; i <= 4; i++) /* a dead agent's, or the parent's before a fork */
        if (tool_user(monitoring, i) == 2)
            monitor_cure();
    if (!disable) {
        py_error_clear();
        err = fail_set(MP_FAIL_PYTHON, 0, "there is no sys.monitoring.DISABLE", NULL);
    } else if (!(err = claim_tool()) && !(err = make_callbacks())) {
        err = register_callbacks();
    }
    if (err)
        monitor_uninstall();
    return err;
}

/* free_tool_id before 3.14 leaves callbacks and events in place: each is taken
 * back first. all: not only what we registered, but what an earlier agent may have. */
static void release_tool(PyObj *mon, int id, bool all)
{
    PyObj *events = py_getattr(mon, "events"), *event;

    if (!done(py_method(mon, "set_events", "ii", id, 0)))
        py_error_clear();
    for (int i = 0; events && i <= NEVENTS; i++) {
        if (!all && !slots[i].registered)
            continue;
        event = py_getattr(events, rows[i].event);
        if (!event || !done(py_method(mon, "register_callback", "iOO", id, event, PY_NONE))) {
            py_error_clear();
            mp_control_block.residue |= MP_RESIDUE_HELD; /* an audit hook's veto: the callback stays */
        }
        if (event)
            py_decref(event);
    }
    if (!done(py_method(mon, "free_tool_id", "i", id)))
        py_error_clear();
    if (events)
        py_decref(events);
}

void monitor_uninstall(void)
{
    if (tool >= 0)
        release_tool(monitoring, tool, false);
    tool = -1;
    for (int i = 0; i <= NEVENTS; i++) {
        if (slots[i].event)
            py_decref(slots[i].event);
        /* Somebody else holds a function that points into the agent: it must stay. */
        if (slots[i].callback && py_refcount(slots[i].callback) != 1)
            mp_control_block.residue |= MP_RESIDUE_HELD;
        if (slots[i].callback)
            py_decref(slots[i].callback);
        slots[i].event = slots[i].callback = NULL;
        slots[i].registered = false;
    }
    if (disable)
        py_decref(disable);
    if (monitoring)
        py_decref(monitoring);
    disable = monitoring = NULL;
}

void monitor_cure(void)
{
    PyObj *mon = py_sys("monitoring");

    for (int i = 0; mon && i < 6; i++)
        if (tool_user(mon, i) == 2)
            release_tool(mon, i, true);
}
