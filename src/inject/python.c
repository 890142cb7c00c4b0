/* CPython, seen from outside: found by what it exports, dated by its own version
 * constant, and asked for its state by evaluating its accessors over its memory
 * (Py_IsInitialized is two instructions on every version). */
#include "inject/python.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "target/mem.h"

#define V(major, minor) ((uint32_t)(major) << 24 | (uint32_t)(minor) << 16)

/* --- which versions must have which symbols -------------------------------- */

static const char *const sym_names[MP_PY_SYM_COUNT] = {
#define NAME(name) [MP_SYM_##name] = #name,
    MP_PY_SYMBOLS(NAME)
#undef NAME
};

/* First and last minor version of 3 that must export it. What is not listed is
 * optional: the agent then does without. Checked against nm -D of 3.6.15, 3.7.16,
 * 3.8.18, 3.9.18, 3.10.13, 3.11.2 (static), 3.11.7, 3.12.1 and 3.13.0. */
static const struct {
    enum mp_py_sym sym;
    unsigned char first, last;
} required[] = {
    {MP_SYM_Py_GetVersion, 6, 13},
    {MP_SYM_Py_IsInitialized, 6, 13},
    {MP_SYM_Py_IsFinalizing, 13, 13},
    {MP_SYM__Py_IsFinalizing, 7, 12},
    {MP_SYM__Py_Finalizing, 6, 6},
    {MP_SYM_PyGILState_Ensure, 6, 13},
    {MP_SYM_PyGILState_Release, 6, 13},
    {MP_SYM_PyGILState_GetThisThreadState, 6, 13},
    {MP_SYM_PyThreadState_Get, 6, 13},
    {MP_SYM__PyThreadState_UncheckedGet, 6, 12},
    {MP_SYM_PyThreadState_GetUnchecked, 13, 13},
    {MP_SYM_PyThreadState_Next, 6, 13},
    {MP_SYM_PyThreadState_New, 6, 13},
    {MP_SYM_PyThreadState_Clear, 6, 11},
    {MP_SYM_PyThreadState_Delete, 6, 11},
    {MP_SYM_PyThreadState_Swap, 6, 11},
    {MP_SYM_PyThread_set_key_value, 6, 11},
    {MP_SYM_PyThread_get_key_value, 6, 11},
    {MP_SYM_PyEval_SaveThread, 6, 11},
    {MP_SYM_PyEval_RestoreThread, 6, 13},
    {MP_SYM_PyEval_ThreadsInitialized, 6, 6},
    {MP_SYM_PyEval_InitThreads, 6, 6},
    {MP_SYM_PyMem_GetAllocator, 6, 6},
    {MP_SYM_PyInterpreterState_Head, 6, 13},
    {MP_SYM_PyInterpreterState_Main, 7, 13},
    {MP_SYM_PyInterpreterState_Next, 6, 13},
    {MP_SYM_PyInterpreterState_ThreadHead, 6, 13},
    {MP_SYM__PyInterpreterState_GetEvalFrameFunc, 9, 11},
    {MP_SYM__PyInterpreterState_SetEvalFrameFunc, 9, 11},
    {MP_SYM__PyEval_EvalFrameDefault, 6, 11},
    {MP_SYM_PyCode_Addr2Line, 6, 13},
    {MP_SYM_PyObject_GetAttr, 6, 13},
    {MP_SYM_PyDict_GetItem, 6, 13},
    {MP_SYM_PyDict_Next, 6, 13},
    {MP_SYM_PyImport_GetModuleDict, 13, 13},
    {MP_SYM_PyLong_FromLong, 6, 13},
    {MP_SYM_PyLong_AsLong, 6, 13},
    {MP_SYM_PyObject_CallFunction, 12, 13},
    {MP_SYM_PyUnicode_FromString, 6, 13},
    {MP_SYM_PyUnicode_InternFromString, 6, 13},
    {MP_SYM_PyUnicode_GetLength, 6, 13},
    {MP_SYM_PyUnicode_ReadChar, 6, 13},
    {MP_SYM_PyErr_Fetch, 6, 13},
    {MP_SYM_PyErr_Restore, 6, 13},
    {MP_SYM_PyErr_Clear, 6, 13},
    {MP_SYM_PyErr_Occurred, 6, 13},
    {MP_SYM_Py_IncRef, 6, 13},
    {MP_SYM_Py_DecRef, 6, 13},
    {MP_SYM__Py_NoneStruct, 6, 13},
    {MP_SYM_PyCode_Type, 6, 13},
    {MP_SYM_PyUnicode_Type, 6, 13},
    {MP_SYM__PyRuntime, 7, 13},
};

const char *python_sym_name(enum mp_py_sym sym)
{
    return sym < MP_PY_SYM_COUNT ? sym_names[sym] : "?";
}

bool python_requires(enum mp_py_sym sym, uint32_t version)
{
    unsigned minor = version >> 16 & 0xff;
    size_t i;
    for (i = 0; i < sizeof(required) / sizeof(required[0]); i++)
        if (required[i].sym == sym)
            return minor >= required[i].first && minor <= required[i].last;
    return false;
}

/* --- versions ------------------------------------------------------------- */

/* A number of at most 3 digits at *at; -1 when there is none. */
static long take_part(const char **at)
{
    long v = 0;
    int digits = 0;
    while (isdigit((unsigned char)**at) && digits < 3) {
        v = v * 10 + (**at - '0');
        (*at)++;
        digits++;
    }
    return digits && !isdigit((unsigned char)**at) && v < 256 ? v : -1;
}

uint32_t python_version_parse(const char *text)
{
    long major, minor, micro;
    major = take_part(&text);
    if (major < 1 || *text++ != '.')
        return 0;
    minor = take_part(&text);
    if (minor < 0 || *text++ != '.')
        return 0;
    micro = take_part(&text);
    if (micro < 0)
        return 0;
    return V(major, minor) | (uint32_t)micro << 8;
}

uint32_t python_name_parse(const char *base, bool *ret_threaded)
{
    const char *at = strstr(base, "python");
    long major, minor;
    if (!at)
        return 0;
    at += strlen("python");
    major = take_part(&at);
    if (major < 1 || *at++ != '.')
        return 0;
    minor = take_part(&at);
    if (minor < 0)
        return 0;
    *ret_threaded = false;
    for (; isalpha((unsigned char)*at); at++) /* ABI flags: m, u, d, t */
        *ret_threaded |= *at == 't';
    return V(major, minor);
}

/* Before 3.11 Py_GetVersion formats "%.80s (%.80s) %.80s" from PY_VERSION: the
 * literal is among the strings it names (and so is the buffer, once filled). */
static uint32_t version_from_code(struct view *v, struct elf *e)
{
    raddr_t fn = elf_addr(e, "Py_GetVersion"), strings[16];
    size_t i, n = fn ? disasm_addresses(v->disasm, fn, 24, strings, 16) : 0;
    for (i = 0; i < n; i++) {
        char text[16] = "";
        uint32_t found;
        if (mem_read_string(v->pid, strings[i], text, sizeof(text)) < 0 && !text[0])
            continue;
        text[sizeof(text) - 1] = '\0';
        if ((found = python_version_parse(text)))
            return found;
    }
    return 0;
}

/* From 3.11 on: const unsigned long Py_Version, PY_VERSION_HEX. */
static uint32_t version_from_constant(struct view *v, struct elf *e)
{
    raddr_t at = elf_addr(e, "Py_Version");
    uint64_t hex;
    if (!at || mem_read(v->pid, at, &hex, sizeof(hex)) < 0 || hex >> 32 || hex >> 24 != 3)
        return 0;
    return (uint32_t)hex & 0xffffff00u;
}

static void read_version(struct view *v, struct python_id *id)
{
    struct elf *e = id->module->elf;
    struct elf_sym s;
    bool threaded = false;
    uint32_t by_name = python_name_parse(id->module->base, &threaded);
    id->version = version_from_constant(v, e);
    if (!id->version)
        id->version = version_from_code(v, e);
    if (!id->version)
        id->version = by_name;
    /* Exported by free-threaded builds only (Objects/object.c, Py_GIL_DISABLED). */
    id->free_threaded = threaded || elf_find_exported(e, "_Py_DecRefShared", &s) == 0;
}

/* --- state ---------------------------------------------------------------- */

static int ask(struct view *v, struct elf *e, const char *function)
{
    struct disasm_value r;
    raddr_t fn = elf_addr(e, function);
    if (!fn || disasm_eval(v->disasm, fn, &r) < 0 || r.tp_relative)
        return PYTHON_UNKNOWN;
    return (uint32_t)r.value != 0;
}

static int ask_finalizing(struct view *v, struct elf *e)
{
    int r = ask(v, e, "Py_IsFinalizing");
    raddr_t at;
    uint64_t word;
    if (r == PYTHON_UNKNOWN)
        r = ask(v, e, "_Py_IsFinalizing");
    if (r == PYTHON_UNKNOWN && (at = elf_addr(e, "_Py_Finalizing")) && /* 3.6: PyThreadState * */
        mem_read(v->pid, at, &word, sizeof(word)) == 0)
        r = word != 0;
    return r;
}

/* --- finding -------------------------------------------------------------- */

static bool is_pypy(const struct view_module *m)
{
    return !strncmp(m->base, "libpypy", 7) || !strncmp(m->base, "pypy", 4);
}

static bool has_python(struct view *v, struct view_module *m)
{
    struct elf_sym s;
    return view_elf(v, m) && elf_find(m->elf, "Py_GetVersion", &s) == 0 &&
           elf_find(m->elf, "PyGILState_Ensure", &s) == 0;
}

/* Of two Pythons: the initialised one, then the one on the dynamic linker's list,
 * then the one loaded first: a later copy binds its variables to the first one's
 * (_PyRuntime is looked up in the global scope) and so claims to be initialised too. */
static bool is_better(const struct python_id *a, const struct python_id *b)
{
    if (b->kind != PYTHON_CPYTHON)
        return true;
    if ((a->initialized == 1) != (b->initialized == 1))
        return a->initialized == 1;
    if (!a->module->order != !b->module->order)
        return a->module->order != 0;
    return a->module->order < b->module->order;
}

static void consider(struct view *v, struct view_module *m, struct python_id *best)
{
    struct python_id id = {.kind = PYTHON_CPYTHON, .module = m};
    if (!has_python(v, m))
        return;
    id.initialized = ask(v, m->elf, "Py_IsInitialized");
    if (is_better(&id, best))
        *best = id;
}

static void consider_some(struct view *v, struct python_id *best, bool likely)
{
    size_t i;
    for (i = 0; i < v->count; i++) {
        struct view_module *m = &v->module[i];
        bool by_name = m == v->exe || strstr(m->base, "python") != NULL;
        /* Extension modules have "cpython-311" in their names: they are only users. */
        if (strstr(m->base, "cpython-"))
            continue;
        if (by_name == likely)
            consider(v, m, best);
    }
}

void python_identify(struct view *v, struct python_id *ret)
{
    struct python_id id = {.kind = PYTHON_NONE, .initialized = PYTHON_UNKNOWN, .finalizing = PYTHON_UNKNOWN};
    size_t i;
    for (i = 0; i < v->count && id.kind == PYTHON_NONE; i++) {
        if (is_pypy(&v->module[i])) {
            id.kind = PYTHON_PYPY;
            id.module = &v->module[i];
        }
    }
    if (id.kind == PYTHON_NONE)
        consider_some(v, &id, true);
    if (id.kind == PYTHON_NONE)
        consider_some(v, &id, false); /* inside a library of another name */
    if (id.kind == PYTHON_CPYTHON) {
        id.is_static = id.module == v->exe;
        id.finalizing = ask_finalizing(v, id.module->elf);
        read_version(v, &id);
    }
    *ret = id;
}

/* --- symbols -------------------------------------------------------------- */

/* A program that is no PIE and uses a libpython variable has the live copy of it
 * (R_X86_64_COPY); the dynamic linker binds everyone to that one. */
static uint64_t resolve(struct view *v, const struct python_id *id, const char *name)
{
    struct elf_sym s;
    if (v->exe && v->exe != id->module && view_elf(v, v->exe) && elf_find_exported(v->exe->elf, name, &s) == 0 &&
        s.type == STT_OBJECT)
        return elf_addr(v->exe->elf, name);
    return elf_addr(id->module->elf, name);
}

enum mp_py_sym python_resolve(struct view *v, const struct python_id *id, uint64_t addr[MP_PY_SYM_COUNT])
{
    enum mp_py_sym missing = MP_PY_SYM_COUNT;
    unsigned i;
    for (i = 0; i < MP_PY_SYM_COUNT; i++) {
        addr[i] = resolve(v, id, sym_names[i]);
        if (!addr[i] && missing == MP_PY_SYM_COUNT && python_requires((enum mp_py_sym)i, id->version))
            missing = (enum mp_py_sym)i;
    }
    return missing;
}

/* --- the switch interval ----------------------------------------------------- */

/* From 3.12 on each interpreter has a GIL, the main one its own, inside of itself:
 * offsets of PyInterpreterState.ceval.gil and the size of what it must point into
 * (Include/internal/pycore_interp.h; the size is that of the least patch release). */
static const struct interval_row {
    unsigned char minor;
    uint16_t gil;
    uint32_t size;
} interval_rows[] = {
    {12, 384, 383552},
    {13, 16, 194968},
};

/* struct _gil_runtime_state (Include/internal/pycore_gil.h) without debug or free threading. */
struct interval_gil {
    uint64_t interval;
    uint64_t last_holder; /* PyThreadState * */
    int32_t locked;       /* -1 before there is one */
};

static raddr_t interval_of_interp(struct view *v, struct elf *e, unsigned minor)
{
    raddr_t fn = elf_addr(e, "PyInterpreterState_Main"), at;
    const struct interval_row *row = NULL;
    struct disasm_value interp;
    struct interval_gil gil;
    size_t i;
    for (i = 0; i < sizeof(interval_rows) / sizeof(interval_rows[0]); i++)
        if (interval_rows[i].minor == minor)
            row = &interval_rows[i];
    if (!row || !fn || disasm_eval(v->disasm, fn, &interp) < 0 || interp.tp_relative ||
        mem_read(v->pid, interp.value + row->gil, &at, sizeof(at)) < 0 || at - interp.value >= row->size ||
        mem_read(v->pid, at, &gil, sizeof(gil)) < 0 || gil.last_holder % sizeof(void *) || !gil.last_holder ||
        (gil.locked != 0 && gil.locked != 1))
        return 0;
    return at;
}

/* Up to 3.11 it is a variable, and _PyEval_GetSwitchInterval loads it and returns. */
static raddr_t interval_of_process(struct view *v, struct elf *e)
{
    raddr_t fn = elf_addr(e, "_PyEval_GetSwitchInterval");
    struct disasm_value r;
    if (!fn || disasm_eval(v->disasm, fn, &r) < 0 || r.tp_relative)
        return 0;
    return r.loaded_from;
}

raddr_t python_switch_interval(struct view *v, const struct python_id *id)
{
    unsigned minor = id->version >> 16 & 0xff;
    raddr_t at = minor < 12 ? interval_of_process(v, id->module->elf) : interval_of_interp(v, id->module->elf, minor);
    uint64_t us;
    if (!at || at % sizeof(us) || mem_read(v->pid, at, &us, sizeof(us)) < 0 || us < 1 || us > MP_INTERVAL_MAX_US)
        return 0;
    return at;
}

/* --- where it waits --------------------------------------------------------- */

static unsigned add_text(struct view *v, struct view_module *m, const char *what, struct plan_range *ret, unsigned n,
                         unsigned max)
{
    struct elf_segment s;
    unsigned i;
    if (!view_elf(v, m))
        return n;
    for (i = 0; n < max && elf_segment(m->elf, i, &s) == 0; i++)
        if (s.flags & PF_X)
            ret[n++] = (struct plan_range){s.lo, s.hi, what, false};
    return n;
}

unsigned python_gil_ranges(struct view *v, const struct python_id *id, struct plan_range *ret, unsigned max)
{
    static const char *const names[] = {"PyEval_InitThreads", "PyEval_SaveThread", "PyEval_RestoreThread",
                                        "PyEval_ReInitThreads", "PyThreadState_Swap"};
    struct elf_sym s;
    unsigned i, n = 0;
    if ((id->version >> 16 & 0xff) != 6 || !view_elf(v, id->module))
        return 0;
    for (i = 0; n < max && i < sizeof(names) / sizeof(names[0]); i++)
        if (elf_find(id->module->elf, names[i], &s) == 0 && s.size <= UINT64_MAX - s.addr)
            ret[n++] = (struct plan_range){s.addr, s.addr + s.size, "the making of the GIL", true};
    return n;
}

unsigned python_wait_ranges(struct view *v, const struct python_id *id, struct plan_range *ret, unsigned max)
{
    unsigned n = add_text(v, id->module, "CPython", ret, 0, max);
    size_t i;
    for (i = 0; i < v->count; i++)
        if (!strncmp(v->module[i].base, "select.cpython-", 15))
            n = add_text(v, &v->module[i], "CPython's select", ret, n, max);
    return n;
}
