/* Python's C-API where versions differ or several calls make one step. */
#include "agent/python.h"

bool py_finalizing(void)
{
    if (PY_HAS(Py_IsFinalizing))
        return PY(Py_IsFinalizing, int (*)(void))();
    if (PY_HAS(_Py_IsFinalizing))
        return PY(_Py_IsFinalizing, int (*)(void))();
    if (PY_HAS(_Py_Finalizing)) /* 3.6: a PyThreadState * (Include/pylifecycle.h) */
        return *(void *volatile *)(uintptr_t)g.sym[MP_SYM__Py_Finalizing] != NULL;
    return false;
}

bool py_initialized(void)
{
    return PY(Py_IsInitialized, int (*)(void))();
}

void py_interval_back(void)
{
    uint64_t *interval = (uint64_t *)(uintptr_t)g.boot->switch_interval, mine = MP_HURRY_US;
    uint64_t was = __atomic_exchange_n(&mp_control_block.interval_was, 0, __ATOMIC_ACQ_REL);

    if (was && interval) /* unless the target has set another meanwhile */
        __atomic_compare_exchange_n(interval, &mine, was, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
}

void *py_main_interp(void)
{
    void *interp, *next;

    if (PY_HAS(PyInterpreterState_Main))
        return PY(PyInterpreterState_Main, void *(*)(void))();
    /* 3.6: new interpreters are put at the head, so the main one is last. */
    interp = PY(PyInterpreterState_Head, void *(*)(void))();
    while (interp && (next = PY(PyInterpreterState_Next, void *(*)(void *))(interp)))
        interp = next;
    return interp;
}

void *py_tstate(void)
{
    return PY(PyThreadState_Get, void *(*)(void))();
}

PyObj *py_dict_get(PyObj *dict, const char *key)
{
    PyObj *k = PY(PyUnicode_FromString, PyObj *(*)(const char *))(key), *o = NULL;

    if (k) {
        o = PY(PyDict_GetItem, PyObj *(*)(PyObj *, PyObj *))(dict, k);
        py_decref(k);
    } else {
        py_error_clear();
    }
    return o;
}

bool py_dict_next(PyObj *dict, int64_t *pos, PyObj **ret_key, PyObj **ret_value)
{
    return PY(PyDict_Next, int (*)(PyObj *, int64_t *, PyObj **, PyObj **))(dict, pos, ret_key, ret_value);
}

PyObj *py_sys(const char *name)
{
    PyObj *sys, *o = NULL;

    if (g.minor < 13)
        return PY(PySys_GetObject, PyObj *(*)(const char *))(name);
    sys = py_dict_get(PY(PyImport_GetModuleDict, PyObj *(*)(void))(), "sys");
    if (sys && (o = py_getattr(sys, name)))
        py_decref(o); /* sys has it */
    else
        py_error_clear();
    return o;
}

PyObj *py_module(const char *name)
{
    PyObj *modules = py_sys("modules");
    PyObj *m;

    if (!modules || py_type(modules) != PY_DICT_TYPE)
        return NULL;
    m = py_dict_get(modules, name);
    return m == PY_NONE ? NULL : m;
}

/* One character as UTF-8; lone surrogates have no UTF-8 and become U+FFFD. */
static size_t utf8_put(uint32_t c, char *to)
{
    if (c - 0xd800 < 0x800 || c > 0x10ffff)
        c = 0xfffd;
    if (c < 0x80) {
        to[0] = (char)c;
        return 1;
    }
    if (c < 0x800) {
        to[0] = (char)(0xc0 | c >> 6);
        to[1] = (char)(0x80 | (c & 63));
        return 2;
    }
    if (c < 0x10000) {
        to[0] = (char)(0xe0 | c >> 12);
        to[1] = (char)(0x80 | (c >> 6 & 63));
        to[2] = (char)(0x80 | (c & 63));
        return 3;
    }
    to[0] = (char)(0xf0 | c >> 18);
    to[1] = (char)(0x80 | (c >> 12 & 63));
    to[2] = (char)(0x80 | (c >> 6 & 63));
    to[3] = (char)(0x80 | (c & 63));
    return 4;
}

size_t py_str_copy(PyObj *str, char *to, size_t max, bool keep_tail, bool *ret_cut)
{
    uint32_t (*read_char)(PyObj *, int64_t) = PY(PyUnicode_ReadChar, uint32_t (*)(PyObj *, int64_t));
    int64_t n = PY(PyUnicode_GetLength, int64_t (*)(PyObj *))(str);
    int64_t i = 0;
    size_t bytes = 0, len = 0;
    char c[4];

    *ret_cut = false;
    if (n < 0) {
        py_error_clear();
        return 0;
    }
    if (keep_tail) { /* where does a tail of at most max bytes begin? */
        for (i = n; i > 0 && bytes <= max; i--)
            bytes += utf8_put(read_char(str, i - 1), c);
        if (bytes > max)
            i++;
        *ret_cut = i > 0;
    }
    for (; i < n; i++) {
        size_t k = utf8_put(read_char(str, i), c);

        if (len + k > max) {
            *ret_cut = true;
            break;
        }
        memcpy(to + len, c, k);
        len += k;
    }
    return len;
}

void py_error_text(char *to, size_t size)
{
    struct py_error e;
    PyObj *s = NULL;
    bool cut;
    size_t n = 0;

    to[0] = 0;
    py_error_save(&e);
    PY(PyErr_NormalizeException, void (*)(PyObj **, PyObj **, PyObj **))(&e.type, &e.value, &e.tb);
    if (e.type && (s = py_getattr(e.type, "__name__"))) {
        n = py_str_copy(s, to, size - 1, false, &cut);
        py_decref(s);
    }
    if (e.value && (s = PY(PyObject_Str, PyObj *(*)(PyObj *))(e.value))) {
        if (n + 3 < size) {
            memcpy(to + n, ": ", 2);
            n += 2;
            n += py_str_copy(s, to + n, size - 1 - n, false, &cut);
        }
        py_decref(s);
    }
    to[n] = 0;
    py_error_clear();
    if (e.type)
        py_decref(e.type);
    if (e.value)
        py_decref(e.value);
    if (e.tb)
        py_decref(e.tb);
}
