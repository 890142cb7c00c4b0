/* A user of PEP 523, as torch or pydevd: an eval-frame function of its own that counts
 * and calls the one that was there. For CPython 3.9 and later. */
#define Py_BUILD_CORE_MODULE 1
#include <Python.h>
#include <internal/pycore_interp.h>
#if PY_VERSION_HEX >= 0x030b0000
#include <internal/pycore_frame.h>
#endif

static _PyFrameEvalFunction before;
static unsigned long long count;

#if PY_VERSION_HEX >= 0x030b0000
static PyObject *evaluate(PyThreadState *t, struct _PyInterpreterFrame *f, int exc)
#else
static PyObject *evaluate(PyThreadState *t, PyFrameObject *f, int exc)
#endif
{
    count++;
    return before(t, f, exc);
}

static PyObject *install(PyObject *self, PyObject *unused)
{
    PyInterpreterState *i = PyInterpreterState_Get();
    (void)self;
    (void)unused;
    before = _PyInterpreterState_GetEvalFrameFunc(i);
    _PyInterpreterState_SetEvalFrameFunc(i, evaluate);
    Py_RETURN_NONE;
}

/* (frames so far, whether the function is still in its place) */
static PyObject *look(PyObject *self, PyObject *unused)
{
    (void)self;
    (void)unused;
    return Py_BuildValue("Ki", count, _PyInterpreterState_GetEvalFrameFunc(PyInterpreterState_Get()) == evaluate);
}

static PyMethodDef methods[] = {{"install", install, METH_NOARGS, NULL}, {"look", look, METH_NOARGS, NULL}, {0}};
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "framehook", NULL, -1, methods, 0, 0, 0, 0};

PyMODINIT_FUNC PyInit_framehook(void)
{
    return PyModule_Create(&module);
}
