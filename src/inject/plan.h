/* Inside of inject/: the plan. Made by plan.c from what proc, elf, libc and
 * python found; used by run.c. All of it is ready before the target is stopped. */
#ifndef MP_PLAN_H
#define MP_PLAN_H

#include "inject/inject.h"
#include "target/raddr.h"

#define PLAN_UNSAFE_MAX 32
#define PLAN_TLS_MAX 128
#define PLAN_RETRIES_MAX 8
#define PLAN_GIL_MAX 8

/* Text in which a thread must not be borrowed (libc, ld.so, libpthread,
 * allocators, vdso): the safe-point rule of docs/ARCHITECTURE.md. */
struct plan_range {
    raddr_t lo, hi;
    const char *what; /* short name for messages; owned by the plan */
    bool stack_too;   /* no return address into it on the live stack either (ld.so, allocators) */
};

#define PLAN_GLIBC_NOTES 36 /* 2.x from which on the whole process, not each thread, notes that it has threads */
#define PLAN_TCB_MULTIPLE_THREADS 0x18 /* tcbhead_t: where each thread does so up to then */
#define PLAN_PLACES 4 /* for a region: the target may map something there meanwhile */

/* One module of the static TLS block, to be laid out for the raw thread. */
struct plan_tls {
    raddr_t image;      /* PT_TLS initialisation image in the target's memory */
    uint64_t filesz;    /* bytes to copy */
    uint64_t memsz;
    uint64_t tp_offset; /* the module's block begins this many bytes below the TCB */
};

struct inject_plan {
    struct inject_facts facts;
    pid_t ns_pid;         /* the target's pid in its own pid namespace */
    raddr_t syscall_insn; /* `syscall; ret` in libc */
    raddr_t restore_rt;   /* libc's signal return stub: mov $15,%eax/%rax; syscall */
    raddr_t place[PLAN_PLACES]; /* where the region may be (MP_REGION_PLACE), nearest to libc first; 0: no more */
    raddr_t r_state;      /* address of r_debug.r_state; 0 when there is none */
    struct plan_range unsafe[PLAN_UNSAFE_MAX];
    unsigned unsafe_count;
    /* Code of CPython's, where a wait with a timeout is tried again after EINTR with
     * what remains of it (PEP 475). */
    struct plan_range retries[PLAN_RETRIES_MAX];
    unsigned retries_count;
    struct plan_range gil[PLAN_GIL_MAX]; /* python_gil_ranges */
    unsigned gil_count;
    struct plan_tls tls[PLAN_TLS_MAX];
    unsigned tls_count;
    uint64_t tls_size;    /* bytes of static TLS below the TCB that must exist */
    bool suspend_seccomp; /* the target has a filter and we may suspend it */
    bool single_arena;    /* MALLOC_ARENA_MAX=1 in its environment: malloc takes no lock while single-threaded */
    raddr_t single_threaded; /* libc's own __libc_single_threaded, a byte, 0 once there were threads; 0: there is none */
    struct mp_boot boot;  /* filled but for region_base, raw_tcb and what the payload writes */
};

/* Whether libc thinks now that the process has one thread: not what /proc counts,
 * since threads that libc did not make, of io_uring say, take part in no malloc. What can't be read
 * is taken for true: no lock is counted on then, and to note a second thread twice does no harm.
 * live: a thread of the process that has memory. */
bool plan_single_threaded(const struct inject_plan *p, pid_t live);

/* The images carried inside the launcher (blobs.S). */
extern const unsigned char inject_agent_image[], inject_agent_image_end[];
extern const unsigned char inject_loader_image[], inject_loader_image_end[];

#endif
