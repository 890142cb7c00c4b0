/* Python's C-API by address. Each wrapper is the function of its name; which of
 * two spellings a version has is settled here. Every one needs the GIL unless it
 * says otherwise. Python's headers are not used: one agent serves 3.6 to 3.13. */
#ifndef AGENT_PYTHON_H
#define AGENT_PYTHON_H

#include "agent/agent.h"

typedef void PyObj;

#define PY(name, type) ((type)(uintptr_t)g.sym[MP_SYM_##name])
#define PY_HAS(name) (g.sym[MP_SYM_##name] != 0)
#define PY_NONE ((PyObj *)(uintptr_t)g.sym[MP_SYM__Py_NoneStruct])
#define PY_CODE_TYPE ((void *)(uintptr_t)g.sym[MP_SYM_PyCode_Type])
#define PY_STR_TYPE ((void *)(uintptr_t)g.sym[MP_SYM_PyUnicode_Type])
#define PY_DICT_TYPE ((void *)(uintptr_t)g.sym[MP_SYM_PyDict_Type])
#define PY_FRAME_TYPE ((void *)(uintptr_t)g.sym[MP_SYM_PyFrame_Type])

/* Field 0 of every object is its reference count, field 1 its type: GIL builds, 64 bit. */
static inline void *py_type(const PyObj *o) { return FIELD(void *, o, 8); }
static inline int64_t py_refcount(const PyObj *o) { return FIELD(int64_t, o, 0); }

static inline void py_incref(PyObj *o) { PY(Py_IncRef, void (*)(PyObj *))(o); }
static inline void py_decref(PyObj *o) { PY(Py_DecRef, void (*)(PyObj *))(o); }

/* An exception that was set, put aside. */
struct py_error {
    PyObj *type, *value, *tb;
};
static inline void py_error_save(struct py_error *e)
{
    PY(PyErr_Fetch, void (*)(PyObj **, PyObj **, PyObj **))(&e->type, &e->value, &e->tb);
}
static inline void py_error_restore(struct py_error *e)
{
    PY(PyErr_Restore, void (*)(PyObj *, PyObj *, PyObj *))(e->type, e->value, e->tb);
}
static inline void py_error_clear(void) { PY(PyErr_Clear, void (*)(void))(); }

/* By an interned name. PyObject_GetAttrString and PyObject_CallMethod make a str of their own each
 * time, and from 3.10 on the cache of types' attributes (Objects/typeobject.c, _PyType_Lookup) keeps
 * one that it met: up to 4096 of them would be left behind, session by session. */
static inline PyObj *py_getattr(PyObj *o, const char *name)
{
    PyObj *key = PY(PyUnicode_InternFromString, PyObj *(*)(const char *))(name), *value;

    if (!key)
        return (PyObj *)0;
    value = PY(PyObject_GetAttr, PyObj *(*)(PyObj *, PyObj *))(o, key);
    py_decref(key);
    return value;
}
/* Borrowed, or NULL; no error is raised, and none told: from 3.13 on those that take a C string write
 * to stderr where they have no memory. */
PyObj *py_dict_get(PyObj *dict, const char *key);
PyObj *py_sys(const char *name);
/* The next entry, both borrowed, from *pos on, 0 at first; false: there is none. Runs no code of the target's. */
bool py_dict_next(PyObj *dict, int64_t *pos, PyObj **ret_key, PyObj **ret_value);
static inline long py_long(PyObj *o) { return PY(PyLong_AsLong, long (*)(PyObj *))(o); }

#define py_call(f, ...) \
    (PY(PyObject_CallFunctionObjArgs, PyObj *(*)(PyObj *, ...))(f, ##__VA_ARGS__, (PyObj *)0))
/* Arguments as Py_BuildValue takes them. */
#define py_call_format(f, fmt, ...) \
    (PY(PyObject_CallFunction, PyObj *(*)(PyObj *, const char *, ...))(f, fmt, ##__VA_ARGS__))
#define py_method(o, name, fmt, ...) \
    __extension__({ \
        PyObj *method_ = py_getattr(o, name), *result_ = (PyObj *)0; \
        if (method_) { \
            result_ = py_call_format(method_, fmt, ##__VA_ARGS__); \
            py_decref(method_); \
        } \
        result_; \
    })

/* hook.c: a Python function that every interpreter has; new reference or NULL. */
PyObj *hook_known_function(void);
/* An attribute of it (NULL: there is none), as a new reference. An audit hook can stand in the way:
 * reading __code__ and __globals__ raises an event. NULL then, and the failure is set. */
PyObj *hook_known_attr(PyObj *f, const char *name);

/* python.c */

bool py_finalizing(void); /* no GIL needed */
bool py_initialized(void); /* no GIL needed */
void py_interval_back(void); /* takes back what a launcher did to the switch interval for us; no GIL needed */
void *py_main_interp(void);
void *py_tstate(void); /* the calling thread's, with the GIL held */
PyObj *py_module(const char *name); /* borrowed, from sys.modules; NULL if not there, no exception left */

/* Copies a str as UTF-8 without allocating: at most max bytes, cut at a
 * character; surrogates become U+FFFD. keep_tail: the end is kept instead of
 * the start. Returns the bytes written; *ret_cut tells whether it was cut. */
size_t py_str_copy(PyObj *str, char *to, size_t max, bool keep_tail, bool *ret_cut);

/* gil.c */

/* As PyGILState_Ensure; the thread may end inside when the interpreter finalizes. It needs some
 * hundred bytes of the target's memory: false, and nothing held, when they were missing `tries`
 * times (from 1 on), from 10 to 160 ms apart, the GIL given back meanwhile; mp_control_block.starved
 * says so. In builds that gil.c does not know, and under tracemalloc from 3.12 on,
 * PyGILState_Ensure ends the process where they are missing. */
bool py_try(unsigned tries, int *ret_state);
void py_release(int state);
/* 3.6 makes a GIL when it starts its first thread; before, nothing keeps two threads apart. One
 * that is not there is made, with the launcher's help: waits for that until leaving() says true.
 * False: there is none; in mp_control_block.standstill MP_STANDSTILL_NOT when none can be made. */
bool py_gil_needed(bool (*leaving)(void));
const char *py_gil_refused(void); /* why none can be made */

/* python.c */

/* Writes "Type: text" of the exception that is set and clears it. */
void py_error_text(char *to, size_t size);

#endif
