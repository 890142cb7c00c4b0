/* The module that the corpora of fuzz_elf and fuzz_module begin with: the least that
 * passes for a libc and a CPython at once. module_seed.py makes them of it. */
#include <stdint.h>

#define EXPORT __attribute__((visibility("default")))
#define STUB(name) EXPORT int name(void); EXPORT int name(void) { return 0; }

EXPORT extern __thread int errno;
__thread int errno = 1;
EXPORT int *__errno_location(void);
EXPORT int *__errno_location(void) { return &errno; }
EXPORT const char *gnu_get_libc_version(void);
EXPORT const char *gnu_get_libc_version(void) { return "2.36"; }
STUB(pthread_create)
STUB(pthread_attr_init)
STUB(pthread_attr_destroy)
STUB(pthread_attr_setstack)
STUB(pthread_attr_setdetachstate)
STUB(pthread_key_create)
STUB(pthread_key_delete)
STUB(pthread_getspecific)
STUB(pthread_setspecific)
STUB(clock_gettime)
STUB(dlopen)
STUB(dlclose)
EXPORT void *malloc(unsigned long size);
EXPORT void *malloc(unsigned long size) { return (void *)size; }
STUB(PyGILState_Ensure)
STUB(PyEval_SaveThread)
STUB(PyEval_RestoreThread)
static unsigned long switch_interval = 5000;
EXPORT unsigned long _PyEval_GetSwitchInterval(void);
EXPORT unsigned long _PyEval_GetSwitchInterval(void) { return switch_interval; }
EXPORT unsigned long _PyEval_SetSwitchInterval(unsigned long us);
EXPORT unsigned long _PyEval_SetSwitchInterval(unsigned long us) { return switch_interval = us; }
EXPORT uint32_t _thread_db_pthread_tid[3] = {32, 1, 0x2d0};
EXPORT uint32_t _thread_db_link_map_l_tls_offset[3] = {64, 1, 0x20};
EXPORT unsigned long Py_Version = 0x030b0700;
EXPORT const char *Py_GetVersion(void);
EXPORT const char *Py_GetVersion(void) { return "3.11.7"; }
static int initialized = 1;
EXPORT int Py_IsInitialized(void);
EXPORT int Py_IsInitialized(void) { return initialized; }

/* What is borrowed: `syscall; ret`, the return stub, the loop around exit(2). */
__asm__(".text\n"
        "syscall\nret\n"
        "mov $15, %rax\nsyscall\n"
        "syscall\nmov %edx, %eax\nsyscall\n");
