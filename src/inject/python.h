/* CPython in the target: which one, where, in what state, and its symbols. */
#ifndef MP_PYTHON_H
#define MP_PYTHON_H

#include "base/err.h"
#include "inject/plan.h"
#include "inject/view.h"

enum python_kind { PYTHON_NONE, PYTHON_CPYTHON, PYTHON_PYPY };

#define PYTHON_UNKNOWN (-1) /* of the yes/no facts: could not be read from outside */

struct python_id {
    enum python_kind kind;
    struct view_module *module; /* libpython or the program; NULL for PYTHON_NONE */
    uint32_t version;      /* 0x030b0700; 0 when it could not be told */
    bool is_static;        /* part of the program */
    bool free_threaded;
    int initialized;       /* 1, 0 or PYTHON_UNKNOWN */
    int finalizing;        /* likewise */
};

/* Tells which Python the target runs; never fails. Of several the initialised one. */
void python_identify(struct view *v, struct python_id *ret);

/* "3.11.7 (main, ...)", "3.13.0rc2" -> 0x030b0700; 0 when text begins otherwise. */
uint32_t python_version_parse(const char *text);

/* A file or soname such as "libpython3.13t.so.1.0", "python3.6m": version with micro 0,
 * or 0; *ret_threaded: the ABI flag `t` is there. */
uint32_t python_name_parse(const char *base, bool *ret_threaded);

/* Whether a version must have this symbol (a row of MP_PY_SYMBOLS). */
bool python_requires(enum mp_py_sym sym, uint32_t version);
const char *python_sym_name(enum mp_py_sym sym);

/* Resolves every row of MP_PY_SYMBOLS into addr[] (0: absent). Returns the first
 * one that this version must have and lacks, or MP_PY_SYM_COUNT. */
enum mp_py_sym python_resolve(struct view *v, const struct python_id *id, uint64_t addr[MP_PY_SYM_COUNT]);

/* Where the switch interval of the main interpreter's GIL is: an unsigned long in us that
 * sys.setswitchinterval() sets and a thread that waits for the GIL reads each time round
 * (take_gil in Python/ceval_gil.c). 0 where that is not certain. */
raddr_t python_switch_interval(struct view *v, const struct python_id *id);

/* 3.6: the functions that ask whether there is a GIL and act on the answer. A thread within one
 * of them must not find one made meanwhile. Fills at most max ranges; returns how many. */
unsigned python_gil_ranges(struct view *v, const struct python_id *id, struct plan_range *ret, unsigned max);

/* The code in which CPython waits with a timeout: its own, and the select module's.
 * Fills at most max ranges; returns how many. */
unsigned python_wait_ranges(struct view *v, const struct python_id *id, struct plan_range *ret, unsigned max);

#endif
