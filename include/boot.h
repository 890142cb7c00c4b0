/* The boot block: what the launcher writes into the target before anything of
 * ours runs there, and where loader and agent leave word of themselves.
 *
 * The hijacked thread maps ONE region (mmap, private anonymous, read+exec) and
 * clones ONE raw thread; all that follows is done by threads of our own.
 *
 *   region_base
 *   +--------------------+ 0
 *   | loader blob        |  r-x  position independent, no libc; its first bytes
 *   |  (MP_LOADER_SIZE)  |       are MP_REGION_MAGIC, so that an orphan is found
 *   +--------------------+ MP_BOOT_OFF
 *   | struct mp_boot     |  rw-  (the raw thread's first act is to mprotect
 *   |                    |        everything from here on to read+write)
 *   +--------------------+ MP_RAW_STACK_OFF
 *   | raw thread's stack |  rw-  pthread_create runs on it
 *   +--------------------+ MP_RAW_TLS_OFF
 *   | raw thread's TLS   |  rw-  static TLS images below, a zeroed struct pthread above the TCB
 *   +--------------------+ MP_WORKER_STACK_OFF
 *   | worker's stack     |  rw-  handed to pthread_attr_setstack; glibc puts the true TLS on it
 *   +--------------------+ MP_REGION_SIZE
 *
 * Both sides are x86-64 and built from this header; MP_ABI is checked first. */
#ifndef MP_BOOT_H
#define MP_BOOT_H

#include <stddef.h>
#include <stdint.h>

#include "pysyms.h"

/* Raised with every change of this header, wire.h or control.h. */
#define MP_ABI 10u

/* Where the region is asked for: at this offset in 256 MiB. A launcher killed between
 * the kernel's mmap and its own next step leaves a region without a mark in it;
 * the place, the exact size and the protection are the mark then. */
#define MP_REGION_PLACE 0x06d70000ull
#define MP_REGION_PLACE_MASK 0x0fffffffull

#define MP_REGION_MAGIC "\x6dPULSE\x01\x00" /* 8 bytes: 'm' P U L S E, layout 1 */
#define MP_BOOT_MAGIC 0x3130544f4f42504dull /* "MPBOOT01" */

#define MP_PAGE 4096u
#define MP_LOADER_SIZE (4u * MP_PAGE)
#define MP_BOOT_OFF MP_LOADER_SIZE
#define MP_BOOT_SIZE (2u * MP_PAGE)
#define MP_RAW_STACK_OFF (MP_BOOT_OFF + MP_BOOT_SIZE)
#define MP_RAW_STACK_SIZE (16u * MP_PAGE)
#define MP_RAW_TLS_OFF (MP_RAW_STACK_OFF + MP_RAW_STACK_SIZE)
#define MP_RAW_TLS_SIZE (32u * MP_PAGE)
#define MP_WORKER_STACK_OFF (MP_RAW_TLS_OFF + MP_RAW_TLS_SIZE)
#define MP_WORKER_STACK_SIZE (128u * MP_PAGE)
#define MP_REGION_SIZE (MP_WORKER_STACK_OFF + MP_WORKER_STACK_SIZE)

/* How far the payload has come; written by the payload only, read by anyone. */
enum mp_phase {
    MP_PHASE_NONE = 0,      /* as the launcher wrote it */
    MP_PHASE_RAW = 1,       /* the raw thread runs */
    MP_PHASE_FDS = 2,       /* socketpair and memfd exist */
    MP_PHASE_WORKER = 3,    /* the worker (a true pthread) runs */
    MP_PHASE_LOADED = 4,    /* dlopen returned the agent */
    MP_PHASE_AGENT = 5,     /* the agent's entry runs */
    MP_PHASE_LEAVING = 6,   /* the agent returned; dlclose, then the region goes */
    MP_PHASE_DORMANT = 7,   /* something must stay: nothing of ours runs any more */
    MP_PHASE_FAILED = 8     /* see error and error_text; the payload cleans up after itself */
};

/* What the two sides talk over. Pipes are for a launcher that can't copy descriptors
 * out of the target; what goes through them is the same. */
enum mp_channel {
    MP_CHANNEL_SOCKET = 0, /* a socketpair; the launcher fetches its end with pidfd_getfd(2) */
    MP_CHANNEL_PIPES = 1   /* two pipes; the launcher opens its ends through /proc/TID/fd */
};

/* The rendezvous of loader and launcher: a getpid whose first argument is this.
 * While the launcher traces the raw thread it sees the call; when the launcher
 * has died it is an ordinary getpid. */
#define MP_RENDEZVOUS_ARG 0x6d656d70756c7365ull
/* The same, on the way there, where libc was to note its threads: it has done so. */
#define MP_NOTED_ARG 0x6d656d706e6f7465ull

/* The descriptors of ours, each with its identity as fstat(2) tells it: a forked
 * child inherits them under the same numbers, and may have closed them and opened
 * others there. Whoever opens one notes it, whoever closes it marks it as closed. The
 * identity stays: fork copies the descriptors first and the memory after (kernel/fork.c,
 * copy_process), so a child may have one that its copy of this block says was closed. */
enum mp_held_slot {
    MP_HELD_LAUNCHER, /* launcher_fd */
    MP_HELD_IN,       /* agent_fd */
    MP_HELD_OUT,      /* agent_out */
    MP_HELD_MEMFD,
    MP_HELD_WAKE,     /* of the agent: the pipe by which hooks wake it */
    MP_HELD_STATM,
    MP_HELD_ROLLUP,
    MP_HELD_COUNT
};
struct mp_held {
    int32_t fd;
    volatile uint32_t closed; /* here, by us; 0 or 1 */
    uint64_t dev;
    volatile uint64_t ino; /* written last; 0: none was noted */
};

#define MP_CALLBACKS 7u             /* the agent's, of sys.monitoring */
#define MP_CALLBACK_LOST 1u         /* instead of an object: somebody else has it */
#define MP_ARMED_MARK 0x6d656d70u   /* second word of the armed page, which a fork wipes */

struct mp_boot {
    uint64_t magic; /* MP_BOOT_MAGIC */
    uint32_t abi;   /* MP_ABI */
    uint32_t size;  /* sizeof(struct mp_boot) */

    uint64_t region_base; /* start of the region, page aligned */
    uint64_t region_len;  /* MP_REGION_SIZE */

    /* Word from the payload. */
    volatile uint32_t phase; /* enum mp_phase */
    volatile int32_t error;  /* 0 or a positive errno of the step that failed */
    char error_text[256];    /* dlerror() or the step's name, NUL terminated */
    volatile int32_t raw_tid;    /* 0 before it runs, and once it has been seen to have ended */
    volatile int32_t worker_tid; /* as the target's own pid namespace numbers it */
    volatile int32_t launcher_fd; /* the launcher's end of the socketpair; -1 once closed here, and with pipes */
    volatile int32_t agent_fd;    /* the agent's end, of pipes the one that it reads; -1 once closed */
    volatile int32_t memfd;       /* holds the agent's ELF image until dlopen; -1 once closed */
    volatile int32_t agent_out;   /* the pipe that the agent writes into; -1 without, and once closed */

    /* libc of the target: addresses in the target. */
    uint64_t fn_pthread_create;
    uint64_t fn_pthread_attr_init;
    uint64_t fn_pthread_attr_destroy;
    uint64_t fn_pthread_attr_setstack;
    uint64_t fn_pthread_attr_setdetachstate;
    uint64_t fn_pthread_key_create;
    uint64_t fn_pthread_key_delete;
    uint64_t fn_pthread_getspecific;
    uint64_t fn_pthread_setspecific;
    uint64_t fn_call_tls_dtors; /* __call_tls_dtors, 0 where there is none */
    uint64_t keys_lo, keys_hi; /* the writable segment of the library that keeps the pthread keys */
    uint64_t fn_dlopen;        /* dlopen, or __libc_dlopen_mode */
    uint64_t fn_dlclose;
    uint64_t fn_dlerror;       /* 0 where there is none */
    uint64_t fn_clock_gettime;
    uint32_t dlopen_flags;     /* RTLD_NOW (2), with 0x80000000 for __libc_dlopen_mode */
    uint32_t tid_offset;       /* of `tid` in struct pthread, from the TCB (%fs:0) */
    uint64_t raw_tcb;          /* TCB address of the raw thread, inside the raw TLS area */

    /* `syscall` in libc's text that is followed, with no access to memory, by
     * exit(2): munmap of the region jumps there and needs no stack to return
     * to. rdx, r8, r9, r10 and the callee-saved registers hold SYS_exit. */
    uint64_t exit_gadget;

    uint64_t agent_entry_off; /* of mp_agent_main from the agent's load address */
    uint64_t agent_base;      /* load address, once loaded */

    /* CPython of the target. */
    uint32_t py_version; /* 0x030b0700 form: major, minor, micro, 0 */
    uint32_t py_flags;   /* MP_PYF_* */
    uint64_t py_sym[MP_PY_SYM_COUNT]; /* by enum mp_py_sym: address in the target, 0 if absent */
    uint64_t switch_interval; /* where the GIL's switch interval is, an unsigned long in us; 0: not known */

    int32_t launcher_pid; /* in the target's pid namespace, 0 when not visible there */
    uint32_t channel;     /* enum mp_channel, chosen by the launcher */

    /* For whoever finds this block in a forked child, where no thread of ours is: what
     * else it carries. Written by the payload. */
    volatile int32_t owner_pid; /* the process whose threads loader and agent are, as it numbers itself */
    uint32_t note_threads;      /* 1: libc is to know that there is more than one thread before anything else */
    volatile uint64_t agent_handle; /* from dlopen; 0 before, and from the moment dlclose begins */
    volatile uint64_t armed;        /* the agent's armed page: one page, wiped by forks; 0 without */
    volatile uint64_t callback[MP_CALLBACKS]; /* Python objects whose only owner the agent is; 0 without */
    struct mp_held held[MP_HELD_COUNT];
};

#define MP_PYF_STATIC 1u /* libpython is part of the executable */

_Static_assert(sizeof(struct mp_boot) <= MP_BOOT_SIZE, "boot block outgrew its pages");
_Static_assert(offsetof(struct mp_boot, region_base) == 16, "loader.S reads this offset");

/* The agent's only entry. Runs on the worker; returns 0 when nothing of the
 * agent is reachable any more (the loader then dlcloses it and unmaps the
 * region), 1 when something must stay (the loader keeps all and parks). */
typedef int (*mp_agent_main_fn)(struct mp_boot *boot);

#endif
