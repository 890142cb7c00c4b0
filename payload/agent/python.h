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

static inline PyObj *py_getattr(PyObj *o, const char *name)
{
    return PY(PyObject_GetAttrString, PyObj *(*)(PyObj *, const char *))(o, name);
}
static inline PyObj *py_dict_get(PyObj *dict, const char *key)
{
    return PY(PyDict_GetItemString, PyObj *(*)(PyObj *, const char *))(dict, key);
}
static inline PyObj *py_sys(const char *name)
{
    return PY(PySys_GetObject, PyObj *(*)(const char *))(name);
}
static inline long py_long(PyObj *o) { return PY(PyLong_AsLong, long (*)(PyObj *))(o); }

#define py_call(f, ...) \
    (PY(PyObject_CallFunctionObjArgs, PyObj *(*)(PyObj *, ...))(f, ##__VA_ARGS__, (PyObj *)0))
#define py_method(o, name, fmt, ...) \
    (PY(PyObject_CallMethod, PyObj *(*)(PyObj *, const char *, const char *, ...))(o, name, fmt, ##__VA_ARGS__))

/* hook.c: a Python function that every interpreter has; new reference or NULL. */
PyObj *hook_known_function(void);
/* An attribute of it, as a new reference. All that can stand in the way is an audit hook:
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

int py_ensure(void); /* as PyGILState_Ensure; the thread may end inside when the interpreter finalizes */
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
