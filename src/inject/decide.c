/* The table of refusals. Order: exists, same architecture, permission, other
 * tracer, state, seccomp, shadow stack; then Python, its C library, its version,
 * symbols and state. The C library is judged only where there is a Python: for a
 * wrong pid, "not Python" is what helps. A wrong cause is worse than none, so
 * permission is refused only after a read of the target's memory (the same check
 * as PTRACE_SEIZE) has been refused by the kernel. */
#include "inject/decide.h"

#include <elf.h>
#include <errno.h>
#include <string.h>

#include "target/proc.h"

#define HAS_CAP(set, cap) ((set) >> (cap) & 1)

bool decide_may_suspend_seccomp(const struct decide_facts *d)
{
    return HAS_CAP(d->my_cap_effective, PROC_CAP_SYS_ADMIN) && d->init_user_ns && d->my_seccomp <= 0;
}

/* --- existence and architecture ------------------------------------------- */

static int check_exists(const struct decide_facts *d, struct mp_failure *f)
{
    if (d->hidden)
        return mp_fail(f, MP_E_EPERM_UID, EPERM, "process %d belongs to another user and /proc hides it (hidepid)",
                       (int)d->pid);
    if (!d->exists)
        return mp_fail(f, MP_E_ESRCH, ESRCH, "there is no process %d", (int)d->pid);
    if (d->exited)
        return mp_fail(f, MP_E_TARGET_EXITED, 0, "process %d has exited and waits for its parent to notice (zombie)",
                       (int)d->pid);
    if (d->kernel_thread)
        return mp_fail(f, MP_E_NOT_PYTHON, 0, "process %d is a kernel thread", (int)d->pid);
    return 0;
}

static const char *machine_name(unsigned machine)
{
    static const struct {
        unsigned machine;
        const char *name;
    } rows[] = {{EM_386, "i386"},   {EM_X86_64, "x32"},       {EM_AARCH64, "aarch64"},
                {EM_ARM, "arm"},    {EM_RISCV, "riscv"},      {EM_PPC64, "ppc64"},
                {EM_S390, "s390x"}, {EM_LOONGARCH, "loongarch"}};
    size_t i;
    for (i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
        if (rows[i].machine == machine)
            return rows[i].name;
    return NULL;
}

static int check_arch(const struct decide_facts *d, struct mp_failure *f)
{
    const char *name;
    if (!d->elf_class || (d->elf_class == ELFCLASS64 && d->machine == EM_X86_64))
        return 0;
    name = machine_name(d->machine);
    if (name)
        return mp_fail(f, MP_E_ARCH, 0, "process %d runs an %s program", (int)d->pid, name);
    return mp_fail(f, MP_E_ARCH, 0, "process %d runs a program for ELF machine %u", (int)d->pid, d->machine);
}

/* --- permission ----------------------------------------------------------- */

/* What to type to get more rights, here. A pod without sudo is not told to use it. */
static void hint_more_rights(const struct decide_facts *d, struct mp_failure *f)
{
    if (d->in_kubernetes)
        mp_fail_hint(f, "from outside the pod: kubectl debug -it POD --profile=general --target=CONTAINER "
                        "--image=IMAGE (grants SYS_PTRACE)");
    else if (d->in_container)
        mp_fail_hint(f, "run mempulse on the host as root, or start the container with --cap-add=SYS_PTRACE");
    else if (d->my_uid == 0)
        mp_fail_hint(f, "run it from a root shell that has CAP_SYS_PTRACE (see CapEff in /proc/self/status)");
    else if (d->have_sudo)
        mp_fail_hint(f, "sudo mempulse inject -p %d", (int)d->pid);
    else
        mp_fail_hint(f, "run as root: mempulse inject -p %d", (int)d->pid);
}

static bool same_owner(const struct decide_facts *d)
{
    unsigned i;
    for (i = 0; i < 3; i++) /* real, effective, saved: all must be ours (ptrace(2)) */
        if (d->uid[i] != d->my_uid || d->gid[i] != d->my_gid)
            return false;
    return true;
}

static int refuse_without_capability(const struct decide_facts *d, struct mp_failure *f)
{
    int pid = (int)d->pid;
    if (!same_owner(d) && d->my_uid == 0)
        return mp_fail(f, MP_E_EPERM_CAP, EPERM,
                       "this root lacks CAP_SYS_PTRACE (%s), and process %d belongs to uid %u",
                       HAS_CAP(d->my_cap_bounding, PROC_CAP_SYS_PTRACE) ? "it is not in the effective set"
                                                                        : "the bounding set excludes it",
                       pid, d->uid[1]);
    if (!same_owner(d))
        return mp_fail(f, MP_E_EPERM_UID, EPERM, "process %d belongs to uid %u, gid %u; this is uid %u, gid %u", pid,
                       d->uid[1], d->gid[1], d->my_uid, d->my_gid);
    if (!d->dumpable)
        return mp_fail(f, MP_E_EPERM_DUMPABLE, EPERM,
                       "process %d is not dumpable: it changed its user, or runs a file that it may not read", pid);
    if (d->cap_permitted & ~d->my_cap_permitted)
        return mp_fail(f, MP_E_EPERM_CAP, EPERM, "process %d has capabilities (%#lx) that this one lacks", pid,
                       (unsigned long)(d->cap_permitted & ~d->my_cap_permitted));
    if (d->yama == 1)
        return mp_fail(f, MP_E_EPERM_YAMA, EPERM,
                       "kernel.yama.ptrace_scope is 1: only a parent may trace process %d, and CAP_SYS_PTRACE is "
                       "not held",
                       pid);
    if (d->yama == 2)
        return mp_fail(f, MP_E_EPERM_YAMA, EPERM,
                       "kernel.yama.ptrace_scope is 2: CAP_SYS_PTRACE is needed to trace process %d", pid);
    return 0;
}

static int check_permission(const struct decide_facts *d, struct mp_failure *f)
{
    int pid = (int)d->pid, r = 0;
    if (d->read_error == -ESRCH)
        return mp_fail(f, MP_E_TARGET_EXITED, ESRCH, "process %d has just exited", pid);
    if (d->read_error != -EPERM && d->read_error != -EACCES)
        return d->read_error ? mp_fail(f, MP_E_INTERNAL, -d->read_error, "process %d cannot be looked at: %s", pid,
                                       strerror(-d->read_error))
                             : 0;
    if (d->yama == 3) {
        mp_fail(f, MP_E_EPERM_YAMA, EPERM,
                "kernel.yama.ptrace_scope is 3: no process may trace another until the next boot");
        mp_fail_hint(f, "boot with kernel.yama.ptrace_scope below 3");
        return -(int)MP_E_EPERM_YAMA;
    }
    if (!HAS_CAP(d->my_cap_effective, PROC_CAP_SYS_PTRACE))
        r = refuse_without_capability(d, f);
    if (r == 0 && !d->same_user_ns)
        r = mp_fail(f, MP_E_EPERM_CAP, EPERM,
                    "process %d lives in another user namespace, where CAP_SYS_PTRACE is not held", pid);
    if (r == -(int)MP_E_EPERM_UID && (d->in_container || !d->have_sudo))
        mp_fail_hint(f, "run as uid %u, who owns it, or as root", d->uid[1]);
    else if (r < 0)
        hint_more_rights(d, f);
    if (r < 0)
        return r;
    if (d->lsm[0] && strcmp(d->lsm, "unconfined"))
        return mp_fail(f, MP_E_EPERM_LSM, -d->read_error,
                       "the kernel refuses access to process %d; a security module confines it (%s)", pid, d->lsm);
    return mp_fail(f, MP_E_EPERM, -d->read_error, "the kernel refuses access to process %d: %s", pid,
                   strerror(-d->read_error));
}

/* --- what holds it now ------------------------------------------------------ */

static int check_tracer(const struct decide_facts *d, struct mp_failure *f)
{
    int r;
    if (!d->tracer)
        return 0;
    r = mp_fail(f, MP_E_BUSY_TRACED, 0, "process %d is traced by process %d (%s)", (int)d->pid, (int)d->tracer,
                d->tracer_comm[0] ? d->tracer_comm : "?");
    mp_fail_hint(f, "end process %d first, or let it detach", (int)d->tracer);
    return r;
}

static int check_state(const struct decide_facts *d, struct mp_failure *f)
{
    int r;
    if (d->state != 'T')
        return 0;
    r = mp_fail(f, MP_E_STOPPED, 0, "process %d is stopped", (int)d->pid);
    mp_fail_hint(f, "continue it first: kill -CONT %d", (int)d->pid);
    return r;
}

static int check_seccomp(const struct decide_facts *d, struct mp_failure *f)
{
    int r;
    if (d->seccomp == 1) {
        r = mp_fail(f, MP_E_SECCOMP, 0, "process %d is under strict seccomp: it may only read, write and exit",
                    (int)d->pid);
        mp_fail_hint(f, "nothing can be injected into such a process");
        return r;
    }
    if (d->seccomp == 2 && d->seccomp_differs) {
        r = mp_fail(f, MP_E_SECCOMP, 0, "the threads of process %d are not all under the same seccomp filters: what one of them may "
                    "do says nothing of the others", (int)d->pid);
        mp_fail_hint(f, "the program can set its filters for all threads at once (SECCOMP_FILTER_FLAG_TSYNC)");
        return r;
    }
    if (d->seccomp != 2 || decide_may_suspend_seccomp(d))
        return 0;
    r = mp_fail(f, MP_E_SECCOMP, 0,
                "process %d has a seccomp filter, which may kill it for a call that injection needs; "
                "suspending it takes %s",
                (int)d->pid, d->my_seccomp > 0 ? "a launcher that is not under seccomp itself" : "CAP_SYS_ADMIN");
    if (d->in_container || d->in_kubernetes)
        mp_fail_hint(f, "run mempulse on the host as root, with the pid that the host sees");
    else
        hint_more_rights(d, f);
    return r;
}

static int check_shadow_stack(const struct decide_facts *d, struct mp_failure *f)
{
    if (!d->shadow_stack)
        return 0;
    return mp_fail(f, MP_E_SHADOW_STACK, 0, "process %d runs with a user shadow stack", (int)d->pid);
}

/* --- libraries -------------------------------------------------------------- */

static int check_python(const struct decide_facts *d, struct mp_failure *f)
{
    if (d->python == PYTHON_NONE)
        return mp_fail(f, MP_E_NOT_PYTHON, 0, "process %d is not a Python process: no module of it is CPython",
                       (int)d->pid);
    if (d->python == PYTHON_PYPY)
        return mp_fail(f, MP_E_PYPY, 0, "process %d runs PyPy (%s)", (int)d->pid, d->python_file);
    return 0;
}

static int check_libc(const struct decide_facts *d, struct mp_failure *f)
{
    switch (d->libc) {
    case LIBC_GLIBC:
        break;
    case LIBC_MUSL:
        return mp_fail(f, MP_E_LIBC, 0, "process %d runs on musl (%s)", (int)d->pid, d->libc_name);
    case LIBC_STATIC:
        return mp_fail(f, MP_E_LIBC, 0, "process %d is linked statically: it has no dynamic linker to load an agent",
                       (int)d->pid);
    default:
        return mp_fail(f, MP_E_LIBC, 0, "process %d runs on a C library that is not known (%s)", (int)d->pid,
                       d->libc_name);
    }
    if (!d->glibc_major)
        return mp_fail(f, MP_E_LIBC, 0, "the version of glibc in process %d could not be read", (int)d->pid);
    if (d->glibc_major != 2 || d->glibc_minor < 31)
        return mp_fail(f, MP_E_LIBC, 0, "process %d runs on glibc %u.%u", (int)d->pid, d->glibc_major, d->glibc_minor);
    return 0;
}

static int check_version(const struct decide_facts *d, struct mp_failure *f)
{
    unsigned major = d->py_version >> 24, minor = d->py_version >> 16 & 0xff, micro = d->py_version >> 8 & 0xff;
    if (!d->py_version)
        return mp_fail(f, MP_E_PY_VERSION, 0, "the version of CPython in process %d could not be read", (int)d->pid);
    if (major != 3 || minor < 6 || minor > 13)
        return mp_fail(f, MP_E_PY_VERSION, 0, "process %d runs CPython %u.%u.%u", (int)d->pid, major, minor, micro);
    if (d->free_threaded)
        return mp_fail(f, MP_E_PY_FREE_THREADED, 0, "process %d runs a free-threaded build of CPython %u.%u.%u",
                       (int)d->pid, major, minor, micro);
    return 0;
}

static int check_symbols(const struct decide_facts *d, struct mp_failure *f)
{
    if (!d->missing_symbol)
        return 0;
    return mp_fail(f, MP_E_SYMBOLS, 0, "%s has no symbol %s", d->python_file, d->missing_symbol);
}

static int check_interpreter(const struct decide_facts *d, struct mp_failure *f)
{
    /* Finalizing first: a finalizing interpreter counts as no longer initialised. */
    if (d->finalizing == 1)
        return mp_fail(f, MP_E_PY_FINALIZING, 0, "the interpreter of process %d is shutting down", (int)d->pid);
    if (d->initialized == 0)
        return mp_fail(f, MP_E_PY_NOT_READY, 0, "the interpreter of process %d is not initialised", (int)d->pid);
    return 0;
}

/* Last: only where all else is well is it the limits that stand in the way. */
static int check_room(const struct decide_facts *d, struct mp_failure *f)
{
    return room_check(&d->room, d->pid, f);
}

static const struct {
    enum decide_stage stage;
    int (*check)(const struct decide_facts *d, struct mp_failure *f);
} rules[] = {
    {DECIDE_ACCESS, check_exists},        {DECIDE_ACCESS, check_arch},
    {DECIDE_ACCESS, check_permission},    {DECIDE_PROCESS, check_tracer},
    {DECIDE_PROCESS, check_state},        {DECIDE_PROCESS, check_seccomp},
    {DECIDE_PROCESS, check_shadow_stack}, {DECIDE_LIBRARIES, check_python},
    {DECIDE_LIBRARIES, check_libc},       {DECIDE_LIBRARIES, check_version},
    {DECIDE_LIBRARIES, check_symbols},    {DECIDE_LIBRARIES, check_interpreter},
    {DECIDE_LIBRARIES, check_room},
};

int decide(const struct decide_facts *d, enum decide_stage upto, struct mp_failure *f)
{
    size_t i;
    for (i = 0; i < sizeof(rules) / sizeof(rules[0]); i++) {
        int r = rules[i].stage <= upto ? rules[i].check(d, f) : 0;
        if (r < 0)
            return r;
    }
    return 0;
}
