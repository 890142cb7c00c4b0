/* May this process be injected? A pure function from what was gathered to a
 * decision, so that every refusal can be tried as a row of a table. */
#ifndef MP_DECIDE_H
#define MP_DECIDE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"
#include "inject/libc.h"
#include "inject/python.h"
#include "inject/room.h"

struct decide_facts {
    pid_t pid;

    /* the process */
    bool exists;
    bool hidden;         /* it exists, but /proc does not show it to us (hidepid) */
    bool kernel_thread;
    bool exited;         /* a zombie: no thread of it lives */
    char state;          /* as in proc_stat */
    unsigned elf_class;  /* ELFCLASS*; 0 not known */
    unsigned machine;    /* EM_*; 0 not known */
    uid_t uid[4];
    gid_t gid[4];
    uint64_t cap_permitted;
    bool dumpable;
    bool same_user_ns;
    pid_t tracer;        /* 0: none */
    char tracer_comm[64];
    int seccomp;         /* 0 none, 1 strict, 2 filter */
    bool seccomp_differs; /* not all threads have the same mode and, from 5.9 on, number of filters */
    bool shadow_stack;
    char lsm[64];        /* security module's label; "" */

    /* us */
    uid_t my_uid;        /* real: what ptrace compares (PTRACE_MODE_ATTACH_REALCREDS) */
    gid_t my_gid;
    uint64_t my_cap_permitted, my_cap_effective, my_cap_bounding;
    bool init_user_ns;   /* ours is the initial user namespace */
    int my_seccomp;
    int yama;            /* ptrace_scope, -1: no Yama */

    /* tried */
    int read_error;      /* of opening its memory, or reading a byte of it: 0 or a negative errno */

    struct room room;    /* what the target's limits leave */

    /* for remedies that can be typed where we are */
    bool have_sudo, in_container, in_kubernetes;

    /* its libraries; names live as long as the gatherer says */
    enum libc_kind libc;
    const char *libc_name;
    unsigned glibc_major, glibc_minor;
    enum python_kind python;
    const char *python_file;
    uint32_t py_version;
    bool free_threaded;
    int initialized, finalizing; /* 1, 0, PYTHON_UNKNOWN */
    const char *missing_symbol;  /* NULL: none */
};

/* Groups of rules in the order in which they are applied. ACCESS: may it be looked
 * at (what status and detach need). PROCESS: may it be injected. LIBRARIES: is it a
 * Python that we know; only this one reads the facts from `libc` on. */
enum decide_stage { DECIDE_ACCESS, DECIDE_PROCESS, DECIDE_LIBRARIES };

/* Applies every rule up to and including the stage. Returns 0, or a negative enum
 * mp_err with cause and remedy in *f. */
int decide(const struct decide_facts *d, enum decide_stage upto, struct mp_failure *f) MP_MUST_CHECK;

/* Whether PTRACE_O_SUSPEND_SECCOMP is ours to use: CAP_SYS_ADMIN in the initial user
 * namespace, and no seccomp on ourselves (kernel/ptrace.c, check_ptrace_options). */
bool decide_may_suspend_seccomp(const struct decide_facts *d);

#endif
