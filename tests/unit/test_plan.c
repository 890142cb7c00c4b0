/* The decision as a table of refusals, and their order; versions and symbols. */
#include <check.h>
#include <elf.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "inject/decide.h"
#include "limits.h"
#include "target/proc.h"

#define CAP(n) (1ull << (n))

/* A process of one's own that runs a good Python: nothing to refuse. */
static struct decide_facts good(void)
{
    return (struct decide_facts){
        .pid = 42, .exists = true, .state = 'S', .elf_class = ELFCLASS64, .machine = EM_X86_64,
        .uid = {1000, 1000, 1000, 1000}, .gid = {1000, 1000, 1000, 1000}, .dumpable = true, .same_user_ns = true,
        .my_uid = 1000, .my_gid = 1000, .init_user_ns = true, .yama = 0, .have_sudo = true,
        .libc = LIBC_GLIBC, .libc_name = "libc.so.6", .glibc_major = 2, .glibc_minor = 36,
        .python = PYTHON_CPYTHON, .python_file = "libpython3.11.so.1.0", .py_version = 0x030b0700,
        .initialized = 1, .finalizing = 0,
    };
}

/* Changes that spoil it, one each. */
static void hidden(struct decide_facts *d) { d->exists = false; d->hidden = true; }
static void absent(struct decide_facts *d) { d->exists = false; }
static void zombie(struct decide_facts *d) { d->exited = true; d->state = 'Z'; }
static void kernel_thread(struct decide_facts *d) { d->kernel_thread = true; }
static void i386(struct decide_facts *d) { d->elf_class = ELFCLASS32; d->machine = EM_386; }
static void x32(struct decide_facts *d) { d->elf_class = ELFCLASS32; }
static void arm(struct decide_facts *d) { d->machine = EM_AARCH64; }
static void odd_machine(struct decide_facts *d) { d->machine = 4711; }
static void gone_now(struct decide_facts *d) { d->read_error = -ESRCH; }
static void denied(struct decide_facts *d) { d->read_error = -EPERM; }
static void other_uid(struct decide_facts *d) { denied(d); d->uid[2] = 0; d->read_error = -EACCES; }
static void other_gid(struct decide_facts *d) { denied(d); d->gid[1] = 5; }
static void weak_root(struct decide_facts *d) { denied(d); d->my_uid = d->my_gid = 0; d->in_kubernetes = true; d->have_sudo = false; }
static void not_dumpable(struct decide_facts *d) { denied(d); d->dumpable = false; }
static void has_caps(struct decide_facts *d) { denied(d); d->cap_permitted = CAP(12); }
static void yama1(struct decide_facts *d) { denied(d); d->yama = 1; }
static void yama1_container(struct decide_facts *d) { yama1(d); d->in_container = true; }
static void yama2(struct decide_facts *d) { denied(d); d->yama = 2; d->have_sudo = false; }
static void yama3(struct decide_facts *d) { denied(d); d->yama = 3; d->my_cap_effective = ~0ull; }
static void user_ns(struct decide_facts *d) { denied(d); d->same_user_ns = false; d->my_cap_effective = CAP(PROC_CAP_SYS_PTRACE); }
static void lsm(struct decide_facts *d) { denied(d); strcpy(d->lsm, "docker-default (enforce)"); d->my_cap_effective = ~0ull; }
static void unexplained(struct decide_facts *d) { denied(d); d->my_cap_effective = ~0ull; strcpy(d->lsm, "unconfined"); }
static void strange_error(struct decide_facts *d) { d->read_error = -EIO; }
static void traced(struct decide_facts *d) { d->tracer = 77; strcpy(d->tracer_comm, "gdb"); }
static void stopped(struct decide_facts *d) { d->state = 'T'; }
static void strict(struct decide_facts *d) { d->seccomp = 1; d->my_cap_effective = ~0ull; }
static void filter(struct decide_facts *d) { d->seccomp = 2; }
static void filter_differs(struct decide_facts *d) { d->seccomp = 2; d->seccomp_differs = true; d->my_cap_effective = ~0ull; }
static void filter_on_both(struct decide_facts *d) { d->seccomp = 2; d->my_seccomp = 2; d->my_cap_effective = ~0ull; d->in_container = true; }
static void filter_nested(struct decide_facts *d) { d->seccomp = 2; d->my_cap_effective = ~0ull; d->init_user_ns = false; }
static void shadow(struct decide_facts *d) { d->shadow_stack = true; }
static void no_proc(struct decide_facts *d) { d->room.no_proc = true; strcpy(d->room.root, "/srv/jail"); }
static void no_fds(struct decide_facts *d) { d->room.nofile = (struct room_limit){true, 60, {64, 4096}}; }
static void no_fds_hard(struct decide_facts *d) { d->room.nofile = (struct room_limit){true, 60, {64, 64}}; }
static void no_threads(struct decide_facts *d) { d->room.nproc = (struct room_limit){true, 12, {10, PROC_UNLIMITED}}; }
static void no_data(struct decide_facts *d) { d->room.data = (struct room_limit){true, 100 << 20, {101 << 20, PROC_UNLIMITED}}; }
static void no_memory(struct decide_facts *d) { d->room.as = (struct room_limit){true, 100 << 20, {101 << 20, PROC_UNLIMITED}}; }
static void no_python(struct decide_facts *d) { d->python = PYTHON_NONE; }
static void static_go(struct decide_facts *d) { d->python = PYTHON_NONE; d->libc = LIBC_STATIC; }
static void pypy(struct decide_facts *d) { d->python = PYTHON_PYPY; d->python_file = "libpypy3.9-c.so"; }
static void musl(struct decide_facts *d) { d->libc = LIBC_MUSL; d->libc_name = "ld-musl-x86_64.so.1"; }
static void static_python(struct decide_facts *d) { d->libc = LIBC_STATIC; }
static void odd_libc(struct decide_facts *d) { d->libc = LIBC_OTHER; d->libc_name = "ld-odd.so"; }
static void old_glibc(struct decide_facts *d) { d->glibc_minor = 28; }
static void dateless_glibc(struct decide_facts *d) { d->glibc_major = d->glibc_minor = 0; }
static void py27(struct decide_facts *d) { d->py_version = 0x02071200; }
static void py35(struct decide_facts *d) { d->py_version = 0x03050a00; }
static void py314(struct decide_facts *d) { d->py_version = 0x030e0800; }
static void no_version(struct decide_facts *d) { d->py_version = 0; }
static void threaded(struct decide_facts *d) { d->py_version = 0x030d0000; d->free_threaded = true; }
static void symbol(struct decide_facts *d) { d->missing_symbol = "PyGILState_Ensure"; }
static void ending(struct decide_facts *d) { d->finalizing = 1; d->initialized = 0; }
static void not_ready(struct decide_facts *d) { d->initialized = 0; }

/* In the order of the rules, so that each also wins over all that follow. */
static const struct {
    const char *what;
    void (*spoil)(struct decide_facts *d);
    enum mp_err code;
    const char *says, *hints; /* parts of message and hint */
} refusals[] = {
    {"hidden", hidden, MP_E_EPERM_UID, "hidepid", NULL},
    {"absent", absent, MP_E_ESRCH, "no process 42", NULL},
    {"zombie", zombie, MP_E_TARGET_EXITED, "zombie", NULL},
    {"kernel thread", kernel_thread, MP_E_NOT_PYTHON, "kernel thread", NULL},
    {"i386", i386, MP_E_ARCH, "i386", NULL},
    {"x32", x32, MP_E_ARCH, "x32", NULL},
    {"aarch64", arm, MP_E_ARCH, "aarch64", NULL},
    {"unknown machine", odd_machine, MP_E_ARCH, "4711", NULL},
    {"gone", gone_now, MP_E_TARGET_EXITED, "exited", NULL},
    {"another user's", other_uid, MP_E_EPERM_UID, "uid 1000", "sudo mempulse inject -p 42"},
    {"another group's", other_gid, MP_E_EPERM_UID, "gid 5", NULL},
    {"root without the capability, in a pod", weak_root, MP_E_EPERM_CAP, "CAP_SYS_PTRACE", "kubectl debug"},
    {"not dumpable", not_dumpable, MP_E_EPERM_DUMPABLE, "dumpable", "sudo"},
    {"more capabilities than we", has_caps, MP_E_EPERM_CAP, "0x1000", NULL},
    {"yama 1", yama1, MP_E_EPERM_YAMA, "ptrace_scope is 1", "sudo"},
    {"yama 1 in a container", yama1_container, MP_E_EPERM_YAMA, "ptrace_scope is 1", "--cap-add=SYS_PTRACE"},
    {"yama 2, no sudo", yama2, MP_E_EPERM_YAMA, "ptrace_scope is 2", "as root"},
    {"yama 3, even root", yama3, MP_E_EPERM_YAMA, "next boot", "boot"},
    {"another user namespace", user_ns, MP_E_EPERM_CAP, "user namespace", NULL},
    {"security module", lsm, MP_E_EPERM_LSM, "docker-default", NULL},
    {"no cause known", unexplained, MP_E_EPERM, "Operation not permitted", NULL},
    {"another error", strange_error, MP_E_INTERNAL, "Input/output", NULL},
    {"traced", traced, MP_E_BUSY_TRACED, "process 77 (gdb)", "77"},
    {"stopped", stopped, MP_E_STOPPED, "stopped", "kill -CONT 42"},
    {"strict seccomp", strict, MP_E_SECCOMP, "strict", "nothing can"},
    {"filter, no capability", filter, MP_E_SECCOMP, "CAP_SYS_ADMIN", "sudo"},
    {"filters that differ", filter_differs, MP_E_SECCOMP, "not all under the same", "TSYNC"},
    {"filter on both", filter_on_both, MP_E_SECCOMP, "not under seccomp", "host"},
    {"filter, nested namespace", filter_nested, MP_E_SECCOMP, "CAP_SYS_ADMIN", NULL},
    {"shadow stack", shadow, MP_E_SHADOW_STACK, "shadow stack", NULL},
    {"not Python", no_python, MP_E_NOT_PYTHON, "not a Python", NULL},
    {"not Python, static", static_go, MP_E_NOT_PYTHON, "not a Python", NULL},
    {"PyPy", pypy, MP_E_PYPY, "libpypy3.9-c.so", NULL},
    {"musl", musl, MP_E_LIBC, "musl", NULL},
    {"static", static_python, MP_E_LIBC, "statically", NULL},
    {"unknown libc", odd_libc, MP_E_LIBC, "ld-odd.so", NULL},
    {"old glibc", old_glibc, MP_E_LIBC, "glibc 2.28", NULL},
    {"glibc without a version", dateless_glibc, MP_E_LIBC, "could not be read", NULL},
    {"2.7", py27, MP_E_PY_VERSION, "CPython 2.7.18", NULL},
    {"3.5", py35, MP_E_PY_VERSION, "CPython 3.5.10", NULL},
    {"3.14", py314, MP_E_PY_VERSION, "CPython 3.14.8", NULL},
    {"no version", no_version, MP_E_PY_VERSION, "could not be read", NULL},
    {"free-threaded", threaded, MP_E_PY_FREE_THREADED, "3.13.0", NULL},
    {"symbol", symbol, MP_E_SYMBOLS, "PyGILState_Ensure", NULL},
    {"finalizing", ending, MP_E_PY_FINALIZING, "shutting down", NULL},
    {"not initialised", not_ready, MP_E_PY_NOT_READY, "not initialised", NULL},
    {"chroot without /proc", no_proc, MP_E_NO_PROC, "no /proc in the root of process 42, /srv/jail", "mount --bind /proc /srv/jail/proc"},
    {"descriptors", no_fds, MP_E_LIMIT, "60 of the 64 file descriptors that its RLIMIT_NOFILE", "prlimit --pid 42 --nofile=128:"},
    {"descriptors, hard", no_fds_hard, MP_E_LIMIT, "RLIMIT_NOFILE", "as root: prlimit --pid 42 --nofile=128"},
    {"threads", no_threads, MP_E_LIMIT, "RLIMIT_NPROC", "prlimit --pid 42 --nproc=76:"},
    {"data", no_data, MP_E_LIMIT, "RLIMIT_DATA", "prlimit --pid 42 --data=374341632:"},
    {"address space", no_memory, MP_E_LIMIT, "RLIMIT_AS", "prlimit --pid 42 --as=374341632:"},
};
enum { REFUSALS = sizeof(refusals) / sizeof(refusals[0]) };

START_TEST(test_refusal)
{
    struct decide_facts d = good();
    struct mp_failure f = {0};
    int r;
    refusals[_i].spoil(&d);
    r = decide(&d, DECIDE_LIBRARIES, &f);
    ck_assert_msg(r == -(int)refusals[_i].code, "%s: %s", refusals[_i].what, mp_err_name(f.code));
    ck_assert_msg(f.code == refusals[_i].code && !f.changed_target, "%s", refusals[_i].what);
    ck_assert_msg(strstr(f.message, refusals[_i].says), "%s: %s", refusals[_i].what, f.message);
    ck_assert_msg(f.hint[0], "%s: no remedy", refusals[_i].what);
    if (refusals[_i].hints)
        ck_assert_msg(strstr(f.hint, refusals[_i].hints), "%s: %s", refusals[_i].what, f.hint);
    ck_assert_msg(!(d.in_kubernetes || d.in_container) || !strstr(f.hint, "sudo"), "sudo in a container: %s", f.hint);
}
END_TEST

/* Just enough room is enough; of what is not known nothing is said. */
START_TEST(test_room)
{
    struct decide_facts d = good();
    struct mp_failure f = {0};

    d.room.nofile = (struct room_limit){true, 64 - MP_NEED_FDS, {64, 64}};
    d.room.nproc = (struct room_limit){false, 99, {10, 10}};
    d.room.as = (struct room_limit){true, 0, {PROC_UNLIMITED, PROC_UNLIMITED}};
    ck_assert_int_eq(decide(&d, DECIDE_LIBRARIES, &f), 0);
    d.room.nofile.used++;
    ck_assert_int_eq(decide(&d, DECIDE_LIBRARIES, &f), -(int)MP_E_LIMIT);
    ck_assert_int_eq(decide(&d, DECIDE_PROCESS, NULL), 0);
}
END_TEST

/* A hint is a line to be pasted into root's shell: a root that the target named is in it
 * only where the shell takes it for a name. */
START_TEST(test_hint_is_no_command)
{
    static const char *const roots[] = {"/tmp/a;reboot", "/tmp/$(reboot)", "/tmp/`reboot`", "/tmp/a b", "/tmp/a&", "/tmp/a|b",
                                        "/tmp/a'b", "/tmp/a\nreboot", "/tmp/~/..\\", "/tmp/\"x", "/tmp/*", "/tmp/>x", "-rf"};

    for (size_t i = 0; i < sizeof(roots) / sizeof(roots[0]); i++) {
        struct room r = {.no_proc = true};
        struct mp_failure f = {0};

        strcpy(r.root, roots[i]);
        ck_assert_int_eq(room_check(&r, 42, &f), -(int)MP_E_NO_PROC);
        ck_assert_msg(!strstr(f.hint, roots[i]) && !strstr(f.hint, "reboot") && !strstr(f.hint, "--bind"), "%s", f.hint);
        ck_assert_msg(strstr(f.hint, "nsenter -t 42 -m"), "%s", f.hint);
    }
    for (size_t len = 125; len < 128; len++) { /* a path that was cut is another one's */
        struct room r = {.no_proc = true};
        struct mp_failure f = {0};

        memset(r.root, 'x', len);
        r.root[0] = '/';
        ck_assert_int_eq(room_check(&r, 42, &f), -(int)MP_E_NO_PROC);
        ck_assert_int_eq(strstr(f.hint, "--bind") != NULL, len < 127);
    }
}
END_TEST

/* What only the kernel's refusal in the target told. */
START_TEST(test_room_explain)
{
    static const struct {
        int err;
        const char *limit;
    } known[] = {{EMFILE, "RLIMIT_NOFILE"}, {EAGAIN, "RLIMIT_NPROC"}, {ENOMEM, "RLIMIT_AS"}, {ENFILE, "fs.file-max"}};
    struct mp_failure none = {0};

    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
        struct mp_failure f = {0};

        ck_assert_int_eq(room_explain("clone", 42, known[i].err, &f), -(int)MP_E_LIMIT);
        ck_assert_msg(strstr(f.message, known[i].limit) && strstr(f.message, "clone"), "%s", f.message);
        ck_assert_msg(strstr(f.hint, known[i].err == ENFILE ? "sysctl" : "prlimit --pid 42 --"), "%s", f.hint);
    }
    ck_assert_int_eq(room_explain("clone", 42, EPERM, &none), 0);
    ck_assert_int_eq(room_explain("clone", 42, 0, &none), 0);
    ck_assert_int_eq(none.code, 0);
}
END_TEST

/* Where two things are wrong, the earlier rule speaks. Facts about who we are
 * (rows on permission) would be overwritten, so only neighbours with different
 * fields are paired: existence, architecture, tracer, state, seccomp, libraries. */
START_TEST(test_order)
{
    static void (*const in_order[])(struct decide_facts *) = {absent, i386, other_gid, traced, stopped, strict,
                                                              shadow, no_python, musl, py35, symbol, ending};
    static const enum mp_err codes[] = {MP_E_ESRCH, MP_E_ARCH, MP_E_EPERM_UID, MP_E_BUSY_TRACED, MP_E_STOPPED,
                                        MP_E_SECCOMP, MP_E_SHADOW_STACK, MP_E_NOT_PYTHON, MP_E_LIBC,
                                        MP_E_PY_VERSION, MP_E_SYMBOLS, MP_E_PY_FINALIZING};
    enum { N = sizeof(in_order) / sizeof(in_order[0]) };
    struct mp_failure f = {0};
    struct decide_facts d = good();
    int i;
    for (i = N - 1; i >= _i; i--)
        in_order[i](&d);
    d.my_cap_effective = 0; /* strict() gave all */
    ck_assert_int_eq(decide(&d, DECIDE_LIBRARIES, &f), -(int)codes[_i]);
}
END_TEST

START_TEST(test_accepted)
{
    struct decide_facts d = good();
    struct mp_failure f = {0};
    ck_assert_int_eq(decide(&d, DECIDE_LIBRARIES, &f), 0);
    d.elf_class = d.machine = 0; /* /proc/PID/exe unreadable: not certain, so not refused */
    d.initialized = d.finalizing = PYTHON_UNKNOWN;
    ck_assert_int_eq(decide(&d, DECIDE_LIBRARIES, &f), 0);
    d.yama = 1; /* Yama is there, but the read succeeded: we are its parent, or it asked for it */
    d.dumpable = false;
    d.uid[0] = 7;
    ck_assert_int_eq(decide(&d, DECIDE_LIBRARIES, &f), 0);
    d.seccomp = 2;
    d.my_cap_effective = CAP(PROC_CAP_SYS_ADMIN);
    ck_assert_int_eq(decide(&d, DECIDE_LIBRARIES, &f), 0);
    ck_assert(decide_may_suspend_seccomp(&d));
    d.state = 't'; /* traced in a stop, by somebody whom TracerPid would name */
    ck_assert_int_eq(decide(&d, DECIDE_LIBRARIES, &f), 0);
    ck_assert_int_eq(f.code, 0);
}
END_TEST

START_TEST(test_stages)
{
    struct decide_facts d = good();
    struct mp_failure f = {0};
    ending(&d);
    stopped(&d);
    ck_assert_int_eq(decide(&d, DECIDE_ACCESS, &f), 0);
    d.state = 'S';
    ck_assert_int_eq(decide(&d, DECIDE_PROCESS, &f), 0);
    ck_assert_int_eq(decide(&d, DECIDE_LIBRARIES, &f), -(int)MP_E_PY_FINALIZING);
}
END_TEST

/* --- Python's versions and names --------------------------------------------------- */

static const struct {
    const char *text;
    uint32_t version;
} versions[] = {
    {"3.11.7 (main, Jan  1 2026) [GCC]", 0x030b0700}, {"3.13.0rc2", 0x030d0000}, {"2.7.18", 0x02071200},
    {"3.14.0a1+", 0x030e0000}, {"3.6.15", 0x03060f00}, {"", 0}, {"3", 0}, {"3.", 0}, {"3.11", 0}, {"3.11.", 0},
    {"x3.11.7", 0}, {"3.1111.7", 0}, {"0.1.2", 0}, {"3.300.1", 0}, {"%.80s (%.80s) %.80s", 0}, {"-3.1.1", 0},
};

START_TEST(test_version)
{
    ck_assert_uint_eq(python_version_parse(versions[_i].text), versions[_i].version);
}
END_TEST

static const struct {
    const char *name;
    uint32_t version;
    bool threaded;
} names[] = {
    {"libpython3.11.so.1.0", 0x030b0000, false}, {"libpython3.6m.so.1.0", 0x03060000, false},
    {"libpython3.13t.so.1.0", 0x030d0000, true}, {"libpython3.13td.so.1.0", 0x030d0000, true},
    {"python3.11", 0x030b0000, false}, {"python3.14t", 0x030e0000, true}, {"python3", 0, false},
    {"uwsgi", 0, false}, {"", 0, false}, {"libpython", 0, false}, {"libpython3.so", 0, false},
};

START_TEST(test_name)
{
    bool threaded = false;
    ck_assert_uint_eq(python_name_parse(names[_i].name, &threaded), names[_i].version);
    ck_assert_int_eq(threaded, names[_i].threaded);
}
END_TEST

START_TEST(test_required)
{
    ck_assert(python_requires(MP_SYM_Py_IsFinalizing, 0x030d0000));
    ck_assert(!python_requires(MP_SYM_Py_IsFinalizing, 0x030c0100));
    ck_assert(python_requires(MP_SYM__Py_IsFinalizing, 0x030c0100));
    ck_assert(python_requires(MP_SYM__Py_Finalizing, 0x03060f00));
    ck_assert(!python_requires(MP_SYM__Py_Finalizing, 0x03070000));
    ck_assert(python_requires(MP_SYM__PyEval_EvalFrameDefault, 0x03080000));
    ck_assert(!python_requires(MP_SYM__PyInterpreterState_SetEvalFrameFunc, 0x03080000));
    ck_assert(python_requires(MP_SYM__PyInterpreterState_SetEvalFrameFunc, 0x03090000));
    ck_assert_str_eq(python_sym_name(MP_SYM__PyRuntime), "_PyRuntime");
    ck_assert_str_eq(python_sym_name(MP_PY_SYM_COUNT), "?");
}
END_TEST

int main(void)
{
    Suite *s = suite_create("plan");
    TCase *t = tcase_create("plan");
    SRunner *r = srunner_create(s);
    int failed;
    tcase_add_loop_test(t, test_refusal, 0, REFUSALS);
    tcase_add_test(t, test_room);
    tcase_add_test(t, test_hint_is_no_command);
    tcase_add_test(t, test_room_explain);
    tcase_add_loop_test(t, test_order, 0, 12);
    tcase_add_test(t, test_accepted);
    tcase_add_test(t, test_stages);
    tcase_add_loop_test(t, test_version, 0, sizeof(versions) / sizeof(versions[0]));
    tcase_add_loop_test(t, test_name, 0, sizeof(names) / sizeof(names[0]));
    tcase_add_test(t, test_required);
    suite_add_tcase(s, t);
    srunner_run_all(r, CK_NORMAL);
    failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
