/* Installing and removing, whichever the hook: thunk up to 3.11, monitoring from
 * 3.12. Verifies the layout table against live objects first. Everything here
 * runs on the agent thread with the GIL held (hook_inert excepted). */
#include "agent/python.h"

struct mp_control mp_control_block __attribute__((visibility("default")));
struct agent g;

static uint64_t round_next, round_faded; /* hook_round */

int fail_set(int code, int err, const char *what, const char *detail)
{
    struct text t = text_on(g.fail.text, sizeof(g.fail.text));

    if (g.fail.code) /* the first failure is the one to tell */
        return -code;
    g.fail.code = (uint32_t)code;
    g.fail.err = err;
    text_str(&t, what);
    if (detail && *detail) {
        text_str(&t, ": ");
        text_str(&t, detail);
    }
    return -code;
}

/* Compares the offsets of a code object with what its attributes say. */
static const char *verify_code(PyObj *code)
{
    static const char *const names[] = { "co_name", "co_filename", "co_qualname" };
    const uint16_t offs[] = { g.layout.code_name, g.layout.code_file, g.layout.code_qualname };
    PyObj *o;
    long n;

    if (py_type(code) != PY_CODE_TYPE)
        return "__code__ is no code object";
    for (int i = 0; i < 3; i++) {
        if (!offs[i])
            continue;
        o = py_getattr(code, names[i]);
        if (!o || o != FIELD(PyObj *, code, offs[i])) {
            py_error_clear();
            return names[i];
        }
        py_decref(o);
    }
    o = py_getattr(code, "co_firstlineno");
    n = o ? py_long(o) : -1;
    if (o)
        py_decref(o);
    if (n != FIELD(int32_t, code, g.layout.code_line))
        return "co_firstlineno";
    o = py_getattr(code, "co_flags");
    n = o ? py_long(o) : -1;
    if (o)
        py_decref(o);
    return n == FIELD(int32_t, code, g.layout.code_flags) ? NULL : "co_flags";
}

/* A Python function that every interpreter has: importlib's frozen helper
 * `def _call_with_frames_removed(f, *args, **kwds): return f(*args, **kwds)`.
 * Returns a new reference or NULL. */
PyObj *hook_known_function(void)
{
    PyObj *module = py_module("_frozen_importlib");
    PyObj *f = module ? py_getattr(module, "_call_with_frames_removed") : NULL;

    if (!f)
        py_error_clear();
    return f;
}

PyObj *hook_known_attr(PyObj *f, const char *name)
{
    PyObj *o = f ? py_getattr(f, name) : NULL;
    char text[160];

    if (o)
        return o;
    if (!f) {
        fail_set(MP_FAIL_PYTHON, 0, "no known function", NULL);
        return NULL;
    }
    py_error_text(text, sizeof(text));
    fail_set(MP_FAIL_AUDIT, 0, "an audit hook refused object.__getattr__", text);
    return NULL;
}

static int verify_layout(void)
{
    PyObj *f = hook_known_function();
    PyObj *code = f ? hook_known_attr(f, "__code__") : NULL;
    const char *wrong = code ? verify_code(code) : "no known function";

    if (code)
        py_decref(code);
    if (f)
        py_decref(f);
    if (f && !code)
        return -MP_FAIL_AUDIT;
    if (!wrong && FIELD(void *, g.main_tstate, TS_INTERP) != g.interp)
        wrong = "PyThreadState.interp";
    return wrong ? fail_set(MP_FAIL_LAYOUT, 0, "a structure of the interpreter is not as expected", wrong) : 0;
}

/* The oldest thread state is the last of the list: new ones go to its head. */
static void *oldest_tstate(void)
{
    void *ts = PY(PyInterpreterState_ThreadHead, void *(*)(void *))(g.interp), *next;

    while (ts && (next = PY(PyThreadState_Next, void *(*)(void *))(ts)))
        ts = next;
    return ts;
}

static void count_functions(struct mp_slots *s)
{
    void *ts = PY(PyInterpreterState_ThreadHead, void *(*)(void *))(g.interp);

    for (; ts; ts = PY(PyThreadState_Next, void *(*)(void *))(ts)) {
        s->profile_threads += FIELD(void *, ts, g.layout.ts_profilefunc) != NULL;
        s->trace_threads += FIELD(void *, ts, g.layout.ts_tracefunc) != NULL;
    }
}

void hook_slots(struct mp_slots *ret)
{
    memset(ret, 0, sizeof(*ret));
    ret->eval_default = g.sym[MP_SYM__PyEval_EvalFrameDefault];
    ret->eval_frame = thunk_get_slot();
    count_functions(ret);
    if (g.minor >= 12)
        ret->monitoring_tools = monitor_tools();
    ret->hook = g.hook;
}

static int prepare(void)
{
    g.interp = py_main_interp();
    g.main_tstate = oldest_tstate();
    mp_control_block.interp = (uint64_t)(uintptr_t)g.interp;
    if (!g.interp || !g.main_tstate)
        return fail_set(MP_FAIL_PYTHON, 0, "the main interpreter has no threads", NULL);
    return verify_layout();
}

static int install_monitoring(void)
{
    int err = g.lines ? lines_install() : 0;

    return err ? err : monitor_install();
}

/* Line tracing needs the thunk page. Calls that come between find it not armed yet. */
static int install_thunk(void)
{
    int err = thunk_install();

    if (!err && g.lines && (err = lines_install())) {
        hook_inert();
        thunk_uninstall();
    }
    return err;
}

int hook_install(void)
{
    int err = prepare();

    if (err)
        return err;
    hook_slots(&g.slots_before);
    if (g.hook == MP_HOOK_THUNK && g.slots_before.trace_threads && thunk_recall())
        hook_slots(&g.slots_before);
    g.str_name = PY(PyUnicode_InternFromString, PyObj *(*)(const char *))("__name__");
    if (!g.str_name) {
        py_error_clear();
        return fail_set(MP_FAIL_PYTHON, 0, "PyUnicode_InternFromString", NULL);
    }
    round_next = round_faded = 0;
    /* Greenlets switch C stacks under one thread: depth is then counted by walking. */
    g.greenlets = py_module("greenlet") || py_module("greenlet._greenlet");
    g.no_quiet = g.roots || g.greenlets;
    *g.armed = 1;
    g.installed = true;
    err = g.hook == MP_HOOK_MONITORING ? install_monitoring() : install_thunk();
    if (err) {
        hook_inert();
        g.installed = false;
        codes_release();
        py_decref(g.str_name);
        g.str_name = NULL;
    }
    return err;
}

/* 3.11: an inert thunk in its slot would still keep calls from being inlined, with
 * nobody to look at the stack until the agent gets the GIL; and nobody would break the
 * circle that another tool can make of it. There it stays live, and the first hook that finds
 * itself disarmed takes it out. So it does with lines: calls that are traced go on taking the
 * trace function out of their thread when they return (lines.c). */
bool hook_stays_live(void)
{
    return g.minor == 11 || g.chained || g.lines;
}

void hook_inert(void)
{
    if (g.armed)
        *g.armed = 0;
    if (!hook_stays_live())
        thunk_inert();
}

void hook_disarmed(void)
{
    if (g.armed[1])
        return;
    g.armed[1] = 1;
    thunk_leave_child();
    held_close_copies(g.boot);
}

void hook_uninstall(void)
{
    hook_inert();
    if (g.lines)
        lines_uninstall();
    if (g.hook == MP_HOOK_MONITORING)
        monitor_uninstall();
    else
        thunk_uninstall();
    codes_release();
    if (g.str_name)
        py_decref(g.str_name);
    g.str_name = NULL;
    hook_slots(&g.slots_after);
    g.installed = false;
}

/* ---- the governor ---------------------------------------------------------------- */

void hook_force(void)
{
    g.force = (g.force & ~0xffffu) | ((g.force + 1) & 0xffffu);
    thunk_wake();
}

static void pause_all(bool on)
{
    if (g.hook == MP_HOOK_MONITORING)
        monitor_pause(on);
    else
        thunk_pause(on);
    g.force += 1u << 16;
}

void hook_pause(void)
{
    pause_all(true);
}

void hook_resume(void)
{
    if (g.hook == MP_HOOK_MONITORING)
        monitor_rearm();
    pause_all(false);
}

/* What switches a function's events off and on again costs the target some
 * FADE_COST_NS a time, most of it in Python's instrumentation of the code object.
 * The time between two rounds is such that this stays below a share of 1 / ROUND_SHARE,
 * and at least twice that of the round before, up to ROUND_NS_MAX. */
#define ROUND_SHARE 1000
#define ROUND_NS_MIN 100000000ull
#define ROUND_NS_MAX 10000000000ull

static uint64_t round_length(void)
{
    uint64_t cost = (g.faded - round_faded) * FADE_COST_NS * ROUND_SHARE, twice = 2 * g.round_ns;
    uint64_t ns = cost > twice ? cost : twice;

    return ns < ROUND_NS_MIN ? ROUND_NS_MIN : ns > ROUND_NS_MAX ? ROUND_NS_MAX : ns;
}

void hook_round(uint64_t now)
{
    int state;

    g.tick = (uint32_t)(now / 1000000000ull);
    if (g.hook == MP_HOOK_THUNK && g.installed)
        thunk_round(now);
    if (g.hook != MP_HOOK_MONITORING || !g.installed || g.gov.quiet || g.faded == round_faded || now < round_next)
        return;
    if (!g.round_ns) { /* the first function has been switched off */
        g.round_ns = ROUND_NS_MIN;
        round_next = now + g.round_ns;
        return;
    }
    if (py_finalizing() || !py_try(1, &state))
        return;
    g.round_ns = round_length();
    round_faded = g.faded;
    round_next = now + g.round_ns;
    g.round++;
    monitor_rearm();
    py_release(state);
}

uint64_t hook_inflight(void)
{
    struct thunk *t = thunk_page();

    return t ? t->inflight : 0;
}

uint64_t hook_quiet_count(void)
{
    struct thunk *t = thunk_page();

    return t ? t->quiet_count : 0;
}

bool hook_cure(void)
{
    bool gone;

    if (prepare())
        return false;
    hook_slots(&g.slots_before);
    gone = thunk_cure();
    if (g.minor >= 12)
        monitor_cure();
    hook_slots(&g.slots_after);
    return gone;
}
