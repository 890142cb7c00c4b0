/* sys.monitoring from Python 3.12 on: the tool id, the callbacks' registration, what
 * is on and off. The callbacks themselves are in hook_monitor.c. All needs the GIL. */
#include "agent/monitor.h"

_Static_assert(MP_CALLBACKS == MONITOR_ROWS, "boot.h has a place for each");

#define TOOL_NAME "mempulse"
#define RELEASE_TRIES 3 /* memory that is not there may be the next time */

PyObj *monitor_none, *monitor_disable;

static PyObj *monitoring; /* sys.monitoring */
static int tool = -1;
static long events_on; /* the mask that is set */
static struct {
    PyObj *event; /* an int: 1 << id, as sys.monitoring.events has it */
    PyObj *callback;
    bool registered;
} slots[MONITOR_ROWS];

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

    for (int i = 0; events && i <= MONITOR_LINE; i++) {
        slots[i].event = py_getattr(events, monitor_rows[i].event);
        slots[i].callback = PY(PyCFunction_NewEx, PyObj *(*)(const struct method_def *, PyObj *, PyObj *))(
            &monitor_rows[i].def, NULL, NULL);
        g.boot->callback[i] = (uint64_t)(uintptr_t)slots[i].callback;
        if (!slots[i].event || !slots[i].callback)
            break;
    }
    if (events)
        py_decref(events);
    if (slots[MONITOR_LINE].event && slots[MONITOR_LINE].callback)
        return 0;
    py_error_clear();
    return fail_set(MP_FAIL_PYTHON, 0, "can't make the monitoring callbacks", NULL);
}

static int register_callbacks(void)
{
    char text[160];
    long set = 0;

    for (int i = 0; i <= MONITOR_LINE; i++) {
        if (i == MONITOR_LINE && !g.lines)
            break;
        /* raises the audit event sys.monitoring.register_callback: a hook may veto */
        if (!done(py_method(monitoring, "register_callback", "iOO", tool, slots[i].event, slots[i].callback))) {
            py_error_text(text, sizeof(text));
            return fail_set(MP_FAIL_AUDIT, 0, "sys.monitoring.register_callback was refused", text);
        }
        slots[i].registered = true;
        if (i < MONITOR_LINE)
            set |= py_long(slots[i].event);
    }
    events_on = set;
    if (done(py_method(monitoring, "set_events", "il", tool, set)))
        return 0;
    py_error_text(text, sizeof(text));
    return fail_set(MP_FAIL_PYTHON, 0, "sys.monitoring.set_events", text);
}

int monitor_set_lines(PyObj *code, bool on)
{
    long events = on ? py_long(slots[MONITOR_LINE].event) : 0;

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
    monitor_none = PY_NONE;
    monitor_disable = py_getattr(monitoring, "DISABLE");
    for (int i = 3; i <= 4; i++) /* a dead agent's, or the parent's before a fork */
        if (tool_user(monitoring, i) == 2)
            monitor_cure();
    if (!monitor_disable) {
        py_error_clear();
        err = fail_set(MP_FAIL_PYTHON, 0, "there is no sys.monitoring.DISABLE", NULL);
    } else if (events_init()) {
        err = fail_set(MP_FAIL_MEMORY, SYS_ENOMEM, "no memory", NULL);
    } else if (!(err = claim_tool()) && !(err = make_callbacks())) {
        err = register_callbacks();
    }
    if (err)
        monitor_uninstall();
    return err;
}

void monitor_pause(bool on)
{
    if (tool >= 0 && !done(py_method(monitoring, "set_events", "il", tool, on ? 0l : events_on)))
        py_error_clear();
}

/* Undoes every DISABLE, other tools' as well: there is no narrower call. */
int monitor_rearm(void)
{
    if (tool < 0)
        return -1;
    if (done(py_method(monitoring, "restart_events", NULL)))
        return 0;
    py_error_clear();
    return -1;
}

/* Takes events and callbacks back. False: some stay, for want of memory or by an audit hook's veto. */
static bool release_events(PyObj *mon, int id, bool all)
{
    PyObj *events = py_getattr(mon, "events"), *event;
    bool ok = done(py_method(mon, "set_events", "ii", id, 0)) && events;

    for (int i = 0; events && i <= MONITOR_LINE; i++) {
        if (!all && !slots[i].registered)
            continue;
        event = py_getattr(events, monitor_rows[i].event);
        if (!event || !done(py_method(mon, "register_callback", "iOO", id, event, PY_NONE)))
            ok = false;
        if (event)
            py_decref(event);
        py_error_clear();
    }
    if (events)
        py_decref(events);
    py_error_clear();
    return ok;
}

/* free_tool_id before 3.14 leaves callbacks and events in place: each is taken
 * back first. all: not only what we registered, but what an earlier agent may have. */
static void release_tool(PyObj *mon, int id, bool all)
{
    int tries = RELEASE_TRIES;
    bool free = false;

    while (!release_events(mon, id, all) && --tries)
        ;
    if (!tries)
        mp_control_block.residue |= MP_RESIDUE_HELD;
    for (tries = RELEASE_TRIES; !free && tries; tries--) {
        free = done(py_method(mon, "free_tool_id", "i", id));
        py_error_clear();
    }
    if (!free)
        mp_control_block.residue |= MP_RESIDUE_HELD;
}

void monitor_uninstall(void)
{
    if (tool >= 0)
        release_tool(monitoring, tool, false);
    tool = -1;
    for (int i = 0; i <= MONITOR_LINE; i++) {
        if (slots[i].event)
            py_decref(slots[i].event);
        g.boot->callback[i] = 0;
        /* Somebody else holds a function that points into the agent: it must stay. */
        if (slots[i].callback && py_refcount(slots[i].callback) != 1) {
            mp_control_block.residue |= MP_RESIDUE_HELD;
            g.boot->callback[i] = MP_CALLBACK_LOST;
        }
        if (slots[i].callback)
            py_decref(slots[i].callback);
        slots[i].event = slots[i].callback = NULL;
        slots[i].registered = false;
    }
    if (monitoring)
        py_decref(monitoring);
    monitoring = NULL;
    if (mp_control_block.residue & MP_RESIDUE_HELD)
        return; /* who calls one of them still gets an answer */
    if (monitor_disable)
        py_decref(monitor_disable);
    monitor_disable = NULL;
}

void monitor_cure(void)
{
    PyObj *mon = py_sys("monitoring");

    for (int i = 0; mon && i < 6; i++)
        if (tool_user(mon, i) == 2)
            release_tool(mon, i, true);
}
