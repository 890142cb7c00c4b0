/* Failures with a name: what the exit code, the JSON error and the message are
 * made of. Functions that talk about a target return a negative enum mp_err
 * (all are below -4096, so that they never meet a -errno) and fill a
 * struct mp_failure; plain system helpers return -errno. */
#ifndef MP_ERR_H
#define MP_ERR_H

#include <stdbool.h>
#include <stddef.h>

#define MP_MUST_CHECK __attribute__((warn_unused_result))

/* name, exit code, hint (one command or sentence to act on; may be refined at
 * the place of failure). Names are stable API (docs/exit-codes.md). */
#define MP_ERRORS(X) \
    X(USAGE, 2, "see mempulse --help") \
    X(ESRCH, 3, "list Python processes: pgrep -a python") \
    X(NOT_PYTHON, 4, "attach to a process that runs CPython 3.6 to 3.13") \
    X(PY_VERSION, 4, "CPython 3.6 to 3.13 is supported") \
    X(PY_FREE_THREADED, 4, "use a build with the GIL") \
    X(PY_NOT_READY, 4, "wait until the interpreter is initialised and try again") \
    X(PY_FINALIZING, 4, "the interpreter is shutting down; there is nothing left to attach to") \
    X(PYPY, 4, "PyPy has no CPython interpreter state; it is not supported") \
    X(ARCH, 4, "only x86-64 targets are supported") \
    X(LIBC, 4, "only glibc 2.31 and later is supported") \
    X(LIBC_LAYOUT, 4, "report this libc build: its layout is not one that is known") \
    X(SYMBOLS, 4, "a symbol that is needed is missing from this Python build") \
    X(PY_NO_GIL, 4, "let the program start a thread once (threading.Thread(target=int).start()), then try again") \
    X(PY_LAYOUT, 4, "report this Python build: its layout is not one that is known") \
    X(SHADOW_STACK, 4, "start the target without user shadow stacks (GLIBC_TUNABLES)") \
    X(NO_PROC, 4, "mount proc at /proc in the target's root") \
    X(EPERM, 5, "run as the owner of the process, or as root") \
    X(EPERM_UID, 5, "run as the owner of the process, or as root") \
    X(EPERM_CAP, 5, "CAP_SYS_PTRACE is needed") \
    X(EPERM_YAMA, 5, "sysctl kernel.yama.ptrace_scope=0, or run as root") \
    X(EPERM_DUMPABLE, 5, "the process is not dumpable; run as root") \
    X(EPERM_LSM, 5, "a security module forbids ptrace of this process") \
    X(SECCOMP, 5, "the target's seccomp filter forbids what injection needs; run as root") \
    X(EXECMEM, 5, "lift the policy (systemd: MemoryDenyWriteExecute; SELinux: execmem), or run the program under CPython 3.12 or later") \
    X(AUDIT_VETO, 5, "an audit hook of the target refused the hook") \
    X(BUSY_TRACED, 6, "end the other tracer first") \
    X(BUSY_SESSION, 6, "detach it first: mempulse detach -p PID, or use --replace") \
    X(BUSY_MEMPULSE, 6, "wait until the other mempulse has finished, or end it, and try again") \
    X(BUSY_TRACE_SLOT, 6, "a debugger or coverage holds the trace function; run without --lines") \
    X(BUSY_TOOL_IDS, 6, "free a sys.monitoring tool id") \
    X(NOT_INJECTED, 7, "nothing to do") \
    X(STOPPED, 8, "continue it first: kill -CONT PID") \
    X(NO_SAFE_POINT, 8, "try again; see -v for what stood in the way") \
    X(NO_THREAD, 8, "no thread of the target can be used for injection now; try again") \
    X(GIL_TIMEOUT, 8, "the interpreter lock was not released in time; try again") \
    X(STALLED, 8, "find out what it has mapped: /proc/PID/maps; then whose server does not answer") \
    X(LIMIT, 8, "raise the limit with prlimit and try again") \
    X(INJECT, 9, "run again with -v and report the output") \
    X(AGENT, 9, "run again with -v and report the output") \
    X(FDS_CLOSED, 9, "inject again; the target closes descriptors that it did not open (os.closerange?)") \
    X(RESIDUE, 10, "run mempulse detach -p PID --wait 10s") \
    X(TARGET_EXITED, 11, "the target ended by itself") \
    X(TARGET_EXECED, 11, "the target replaced its program by exec") \
    X(OUTPUT, 12, "check the output's path, space and permissions") \
    X(ABI, 13, "use the mempulse that injected the agent, or detach it first") \
    X(LOSS, 14, "raise --min-bytes or --min-time, or lower --depth") \
    X(FAIL_ON, 15, "a --fail-on condition was met") \
    X(INTERRUPTED, 130, "run it again") /* 128 + the signal: mp_failure.signo */ \
    X(INTERNAL, 70, "this is a bug in mempulse; please report it")

enum mp_err {
    MP_ERR_BASE = 4096,
#define MP_ERR_ENUM(name, code, hint) MP_E_##name,
    MP_ERRORS(MP_ERR_ENUM)
#undef MP_ERR_ENUM
    MP_ERR_END
};

/* One failure, told once. The first one wins: mp_fail on a filled struct keeps
 * what is there. Zero-initialise before use. */
struct mp_failure {
    enum mp_err code;     /* 0: none yet */
    int sys_errno;        /* errno of the system call at its root, or 0 */
    bool changed_target;  /* false: nothing in the target was changed (or all was undone) */
    int signo;            /* the signal that ended us, where that is the cause (INTERRUPTED); or 0 */
    bool target_ended;    /* it has died since: nothing is said of changes */
    char message[512];    /* the cause, in words, without a final stop */
    char hint[256];       /* the remedy */
};

/* Fills *f unless it is filled already. fmt is the cause; arguments may be foreign: the
 * message is sanitised (base/utf8.h). Returns -code, so
 * that `return mp_fail(f, MP_E_X, 0, "…")` reads well. f may be NULL. */
int mp_fail(struct mp_failure *f, enum mp_err code, int sys_errno, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

/* Replaces the remedy of a failure just made. */
void mp_fail_hint(struct mp_failure *f, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

const char *mp_err_name(enum mp_err code); /* "EPERM_YAMA"; "?" for an unknown code */
int mp_err_exit_code(enum mp_err code);    /* 70 for an unknown code */
int mp_failure_exit_code(const struct mp_failure *f); /* its code's, or 128 + signo */
const char *mp_err_hint(enum mp_err code); /* default remedy */

#endif
