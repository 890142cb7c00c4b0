/* A user of PEP 523, as torch or pydevd: an eval-frame function of its own that counts
 * and calls the one that was there. */
#define Py_BUILD_CORE_MODULE 1
#include <Python.h>
#if PY_VERSION_HEX >= 0x03090000
#include <internal/pycore_interp.h>
#elif PY_VERSION_HEX >= 0x03080000
#include <internal/pycore_pystate.h>
#endif
#if PY_VERSION_HEX >= 0x030b0000
#include <internal/pycore_frame.h>
#endif

/* How each version passes a frame, and reads and writes the slot: without functions for
 * it before 3.9, where the interpreter's state is in pystate.h or, in 3.8, an internal header. */
#if PY_VERSION_HEX >= 0x030b0000
#define FRAME PyThreadState *t, struct _PyInterpreterFrame *f, int exc
#define PASSED t, f, exc
#elif PY_VERSION_HEX >= 0x03090000
#define FRAME PyThreadState *t, PyFrameObject *f, int exc
#define PASSED t, f, exc
#else
#define FRAME struct _frame *f, int exc
#define PASSED f, exc
#endif

#if PY_VERSION_HEX >= 0x03090000
#define SLOT_GET() _PyInterpreterState_GetEvalFrameFunc(PyInterpreterState_Get())
#define SLOT_SET(function) _PyInterpreterState_SetEvalFrameFunc(PyInterpreterState_Get(), function)
#else
#define SLOT_GET() (PyThreadState_Get()->interp->eval_frame)
#define SLOT_SET(function) (PyThreadState_Get()->interp->eval_frame = (function))
#endif

static _PyFrameEvalFunction before;
static unsigned long long count;

static PyObject *evaluate(FRAME)
{
    count++;
    return before(PASSED);
}

static PyObject *install(PyObject *self, PyObject *unused)
{
    (void)self;
    (void)unused;
    if (SLOT_GET() != evaluate) {
        before = SLOT_GET();
        SLOT_SET(evaluate);
    }
    Py_RETURN_NONE;
}

/* As torch does: what was there is put back, whatever is there now. Frames that are inside
 * `evaluate` have called `before` already. */
static PyObject *take_out(PyObject *self, PyObject *unused)
{
    (void)self;
    (void)unused;
    SLOT_SET(before);
    before = NULL;
    Py_RETURN_NONE;
}

/* (frames so far, whether the function is still in its place) */
static PyObject *look(PyObject *self, PyObject *unused)
{
    (void)self;
    (void)unused;
    return Py_BuildValue("Ki", count, SLOT_GET() == evaluate);
}

static PyMethodDef methods[] = {
    {"install", install, METH_NOARGS, NULL}, {"remove", take_out, METH_NOARGS, NULL}, {"look", look, METH_NOARGS, NULL}, {0}};
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "framehook", NULL, -1, methods, 0, 0, 0, 0};

PyMODINIT_FUNC PyInit_framehook(void)
{
    return PyModule_Create(&module);
}
