/* The C-API symbols that the agent uses, resolved by the launcher in the
 * target's own files (dynsym first, then .symtab) and handed over by address.
 * A row: name. An absent symbol has address 0; which ones a version must have
 * is the plan's business (src/inject/python.c). */
#ifndef MP_PYSYMS_H
#define MP_PYSYMS_H

#define MP_PY_SYMBOLS(X) \
    X(Py_GetVersion) \
    X(Py_IsInitialized) \
    X(Py_IsFinalizing)              /* 3.13 */ \
    X(_Py_IsFinalizing)             /* 3.7 - 3.12 */ \
    X(_Py_Finalizing)               /* 3.6: a variable */ \
    X(PyGILState_Ensure) \
    X(PyGILState_Release) \
    X(PyGILState_GetThisThreadState) \
    X(PyThreadState_Get) \
    X(_PyThreadState_UncheckedGet)  /* up to 3.12 */ \
    X(PyThreadState_GetUnchecked)   /* 3.13 */ \
    X(PyThreadState_Next) \
    X(PyThreadState_New) \
    X(_PyThreadState_Prealloc)      /* 3.11 */ \
    X(PyThreadState_Clear) \
    X(PyThreadState_Delete) \
    X(PyThreadState_Swap) \
    X(PyThread_set_key_value) \
    X(PyThread_get_key_value) \
    X(PyEval_ThreadsInitialized)    /* 3.6: later there always is a GIL */ \
    X(PyEval_InitThreads)           /* 3.6 */ \
    X(PyMem_GetAllocator)           /* 3.6 */ \
    X(PyInterpreterState_Head) \
    X(PyInterpreterState_Main)      /* 3.7 */ \
    X(PyInterpreterState_Next) \
    X(PyInterpreterState_ThreadHead) \
    X(_PyInterpreterState_GetEvalFrameFunc) /* 3.9 */ \
    X(_PyInterpreterState_SetEvalFrameFunc) /* 3.9 */ \
    X(_PyEval_EvalFrameDefault) \
    X(PyEval_SetTrace) \
    X(_PyEval_SetTrace)             /* 3.9 - 3.12 */ \
    X(PyEval_SetProfile) \
    X(PyEval_GetGlobals) \
    X(PyEval_GetFrame) \
    X(PyEval_SaveThread) \
    X(PyEval_RestoreThread) \
    X(PyFrame_GetLineNumber) \
    X(PyFrame_GetCode)              /* 3.9 */ \
    X(PyCode_Addr2Line) \
    X(PySys_GetObject) \
    X(PySys_Audit)                  /* 3.8 */ \
    X(PyImport_AddModule) \
    X(PyImport_GetModuleDict) \
    X(PyObject_GetAttr) \
    X(PyObject_CallFunction) \
    X(PyObject_CallObject) \
    X(PyObject_CallFunctionObjArgs) \
    X(PyObject_Str) \
    X(PyObject_RichCompareBool) \
    X(PyCFunction_NewEx) \
    X(PyCMethod_New)                /* 3.9 */ \
    X(PyDict_GetItem) \
    X(PyDict_Next) \
    X(PyDict_Size) \
    X(PyList_Size) \
    X(PyList_GetItem) \
    X(PyTuple_New) \
    X(PyTuple_SetItem) \
    X(PyTuple_GetItem) \
    X(PyTuple_Size) \
    X(PyLong_FromLong) \
    X(PyLong_AsLong) \
    X(PyLong_AsUnsignedLong) \
    X(PyLong_FromUnsignedLong) \
    X(PyUnicode_FromString) \
    X(PyUnicode_GetLength) \
    X(PyUnicode_ReadChar) \
    X(PyUnicode_InternFromString) \
    X(PyErr_Fetch) \
    X(PyErr_Restore) \
    X(PyErr_Clear) \
    X(PyErr_Occurred) \
    X(PyErr_NormalizeException) \
    X(Py_IncRef) \
    X(Py_DecRef) \
    X(_Py_NoneStruct) \
    X(PyCode_Type) \
    X(PyUnicode_Type) \
    X(PyDict_Type) \
    X(PyFrame_Type) \
    X(_PyRuntime)                   /* 3.7 */

#define MP_PY_ENUM(name) MP_SYM_##name,
enum mp_py_sym { MP_PY_SYMBOLS(MP_PY_ENUM) MP_PY_SYM_COUNT };
#undef MP_PY_ENUM

#endif
