/* The C library and Python read from live processes: a child of this test and the
 * system's python3, compared with what this process knows of the same libc. */
#include <check.h>
#include <dlfcn.h>
#include <elf.h>
#include <errno.h>
#include <gnu/libc-version.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "inject/libc.h"
#include "inject/ours.h"
#include "inject/plan.h"
#include "inject/python.h"
#include "target/mem.h"

/* --- parsers ------------------------------------------------------------------ */

static const struct {
    const char *text;
    bool ok;
    unsigned major, minor;
} versions[] = {
    {"2.36", true, 2, 36}, {"2.31.so", true, 2, 31}, {"2.4", true, 2, 4}, {"", false, 0, 0}, {"2", false, 0, 0},
    {"2.", false, 0, 0}, {"x2.36", false, 0, 0}, {"-2.36", false, 0, 0}, {"2.-36", false, 0, 0},
    {"2. 36", false, 0, 0}, {"999999.1", false, 0, 0}, {"2.99999999999999999999", false, 0, 0},
};

START_TEST(test_version)
{
    unsigned major = 7, minor = 7;
    ck_assert_int_eq(libc_version_parse(versions[_i].text, &major, &minor), versions[_i].ok);
    ck_assert_uint_eq(major, versions[_i].ok ? versions[_i].major : 7);
    ck_assert_uint_eq(minor, versions[_i].ok ? versions[_i].minor : 7);
}
END_TEST

START_TEST(test_descriptor)
{
    uint32_t good[] = {32, 1, 0x2d0}, off = 7;
    uint32_t wide[] = {64, 1, 0x2d0}, many[] = {32, 2, 0x2d0}, far[] = {32, 1, 1u << 20}, odd[] = {32, 1, 0x2d1};
    ck_assert(!libc_descriptor_parse(wide, 32, &off));
    ck_assert(!libc_descriptor_parse(many, 32, &off));
    ck_assert(!libc_descriptor_parse(far, 32, &off));
    ck_assert(!libc_descriptor_parse(odd, 32, &off));
    ck_assert_uint_eq(off, 7);
    ck_assert(libc_descriptor_parse(good, 32, &off));
    ck_assert_uint_eq(off, 0x2d0);
}
END_TEST

/* --- this very process, seen from outside ---------------------------------------- */

static struct view view;
static struct inject_plan plan;

static void look_at_self(struct libc_id *id)
{
    struct mp_failure f = {0};
    ck_assert_int_eq(view_open(&view, getpid(), NULL), 0);
    libc_identify(&view, id);
    ck_assert_int_eq(id->kind, LIBC_GLIBC);
    plan = (struct inject_plan){.ns_pid = getpid()};
    ck_assert_msg(libc_fill(&view, id, &plan, &f) == 0, "%s", f.message);
}

static uint64_t fn(const char *name) { return (uint64_t)(uintptr_t)dlsym(RTLD_DEFAULT, name); }

START_TEST(test_self_functions)
{
    struct libc_id id;
    unsigned major, minor;
    void *libc = dlopen("libc.so.6", RTLD_NOW | RTLD_NOLOAD); /* a sanitizer has functions of the same names */
    look_at_self(&id);
    ck_assert(libc_version_parse(gnu_get_libc_version(), &major, &minor));
    ck_assert(id.major == major && id.minor == minor);
    ck_assert_uint_eq(plan.boot.fn_pthread_create, (uint64_t)(uintptr_t)dlsym(libc, "pthread_create"));
    ck_assert_uint_eq(plan.boot.fn_dlopen, (uint64_t)(uintptr_t)dlsym(libc, "dlopen"));
    ck_assert_uint_eq(plan.boot.fn_pthread_attr_setstack, fn("pthread_attr_setstack"));
    ck_assert_uint_eq(plan.boot.dlopen_flags, RTLD_NOW);
    view_close(&view);
}
END_TEST

/* The gadgets by their effect: bytes here are code there. */
START_TEST(test_self_gadgets)
{
    struct libc_id id;
    look_at_self(&id);
    ck_assert(!memcmp((void *)plan.syscall_insn, "\x0f\x05\xc3", 3));
    ck_assert(!memcmp((void *)plan.boot.exit_gadget, "\x0f\x05", 2));
    ck_assert(!memcmp((void *)plan.restore_rt, "\x48\xc7\xc0\x0f\0\0\0\x0f\x05", 9) ||
              !memcmp((void *)plan.restore_rt, "\xb8\x0f\0\0\0\x0f\x05", 7));
    view_close(&view);
}
END_TEST

/* What the exit gadget is for: unmapping one's own stack and ending, in one jump. */
START_TEST(test_exit_gadget_runs)
{
    struct libc_id id;
    pid_t child;
    int status;
    look_at_self(&id);
    child = fork();
    if (child == 0) {
        void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        register long rdx __asm__("rdx") = SYS_exit;
        register long r8 __asm__("r8") = SYS_exit;
        register long r9 __asm__("r9") = SYS_exit;
        register long r10 __asm__("r10") = SYS_exit;
        register long r12 __asm__("r12") = SYS_exit;
        register long r13 __asm__("r13") = SYS_exit;
        register long r14 __asm__("r14") = SYS_exit;
        register long r15 __asm__("r15") = SYS_exit;
        __asm__ volatile("xor %%esp, %%esp\n\tjmp *%0" /* no stack from here on */
                         : : "c"(plan.boot.exit_gadget), "a"((long)SYS_munmap), "D"(page), "S"(4096L), "r"(rdx),
                           "r"(r8), "r"(r9), "r"(r10), "r"(r12), "r"(r13), "r"(r14), "r"(r15));
        __builtin_unreachable();
    }
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert(WIFEXITED(status)); /* not by a signal */
    view_close(&view);
}
END_TEST

START_TEST(test_self_threads)
{
    struct libc_id id;
    char *tcb;
    int32_t tid;
    uint32_t scanned;
    uint64_t libc_at = 0, here;
    unsigned i;
    look_at_self(&id);
    __asm__("mov %%fs:0, %0" : "=r"(tcb));
    memcpy(&tid, tcb + plan.boot.tid_offset, sizeof(tid));
    ck_assert_int_eq(tid, (int32_t)syscall(SYS_gettid));
    ck_assert(libc_scan_tid(&view, getpid(), &scanned));
    ck_assert_uint_eq(scanned, plan.boot.tid_offset);
    ck_assert(!libc_scan_tid(&view, 0x7ffffff0, &scanned));
    /* errno lies in one of the TLS blocks: libc's. */
    here = (uint64_t)(uintptr_t)tcb - (uint64_t)(uintptr_t)&errno;
    for (i = 0; i < plan.tls_count; i++)
        if (here <= plan.tls[i].tp_offset && plan.tls[i].tp_offset - here < plan.tls[i].memsz)
            libc_at = plan.tls[i].tp_offset;
    ck_assert_uint_ne(libc_at, 0);
    ck_assert_uint_le(libc_at, plan.tls_size);
    view_close(&view);
}
END_TEST

static bool is_unsafe(uint64_t at, const char *what)
{
    unsigned i;
    for (i = 0; i < plan.unsafe_count; i++)
        if (at >= plan.unsafe[i].lo && at < plan.unsafe[i].hi)
            return !strcmp(plan.unsafe[i].what, what);
    return false;
}

START_TEST(test_self_unsafe)
{
    struct libc_id id;
    uint32_t state = 99;
    const Elf64_Ehdr *ldso = (const Elf64_Ehdr *)getauxval(AT_BASE);
    look_at_self(&id);
    ck_assert(is_unsafe(plan.boot.fn_dlopen, "libc"));
    ck_assert(is_unsafe((uint64_t)(uintptr_t)ldso + ldso->e_entry, "ld.so"));
    ck_assert(!is_unsafe((uint64_t)(uintptr_t)&is_unsafe, "libc"));
    ck_assert_uint_ne(plan.r_state, 0);
    ck_assert_int_eq(mem_read(getpid(), plan.r_state, &state, sizeof(state)), 0);
    ck_assert_uint_eq(state, 0); /* RT_CONSISTENT */
    view_close(&view);
}
END_TEST

/* --- a live python3 ------------------------------------------------------------------ */

static const char python[] = "/usr/bin/python3";

/* Starts python3 with a program; returns when it has printed a line. */
static pid_t start_python(const char *program, int *ret_stdin)
{
    int in[2], out[2];
    pid_t child;
    char c;
    ck_assert_int_eq(pipe(in), 0);
    ck_assert_int_eq(pipe(out), 0);
    child = fork();
    if (child == 0) {
        dup2(in[0], 0);
        dup2(out[1], 1);
        close(in[0]); close(in[1]); close(out[0]); close(out[1]);
        execl(python, python, "-c", program, (char *)NULL);
        _exit(127);
    }
    close(in[0]);
    close(out[1]);
    do /* the whole line: with PYTHONUNBUFFERED it comes in pieces */
        ck_assert_int_eq(read(out[0], &c, 1), 1);
    while (c != '\n');
    close(out[0]);
    *ret_stdin = in[1];
    return child;
}

static void stop_python(pid_t child, int fd)
{
    close(fd);
    ck_assert_int_eq(waitpid(child, NULL, 0), child);
}

#define WAIT_PY "import sys; print(sys.hexversion, flush=True); sys.stdin.read()"

START_TEST(test_python)
{
    struct mp_failure f = {0};
    struct inject_plan *p;
    const struct inject_facts *facts;
    uint64_t hex = 0;
    int fd;
    pid_t child;
    if (access(python, X_OK) < 0)
        return;
    child = start_python(WAIT_PY, &fd);
    ck_assert_msg(inject_plan_make(&p, child, NULL, &f) == 0, "%s", f.message);
    facts = inject_plan_facts(p);
    ck_assert(facts->pid == child && facts->starttime && facts->threads == 1 && facts->rss_bytes > 1 << 20);
    ck_assert_ptr_nonnull(strstr(facts->cmdline, "sys.stdin.read()"));
    ck_assert_ptr_nonnull(strstr(facts->exe, "python3"));
    ck_assert_uint_eq(facts->py_version >> 24, 3);
    ck_assert(p->ns_pid == child && p->boot.launcher_pid == getpid());
    ck_assert(p->boot.magic == MP_BOOT_MAGIC && p->boot.abi == MP_ABI && p->boot.region_len == MP_REGION_SIZE);
    ck_assert(p->boot.agent_entry_off && p->boot.tid_offset && p->boot.memfd == -1);
    ck_assert(p->boot.py_sym[MP_SYM_PyGILState_Ensure] && p->boot.py_sym[MP_SYM__PyRuntime]);
    /* A type object begins with a reference count and a pointer to `type`. */
    ck_assert_int_eq(mem_read(child, p->boot.py_sym[MP_SYM_PyCode_Type], &hex, sizeof(hex)), 0);
    ck_assert_uint_ne(hex, 0);
    inject_plan_free(p);
    stop_python(child, fd);
}
END_TEST

START_TEST(test_python_refusals)
{
    struct mp_failure f = {0};
    struct inject_plan *p = NULL;
    pid_t child = fork();
    siginfo_t info;
    if (child == 0) {
        raise(SIGSTOP);
        _exit(0);
    }
    ck_assert_int_eq(waitid(P_PID, (id_t)child, &info, WSTOPPED | WNOWAIT), 0);
    ck_assert_int_eq(inject_plan_make(&p, child, NULL, &f), -(int)MP_E_STOPPED);
    kill(child, SIGCONT);
    ck_assert_int_eq(waitid(P_PID, (id_t)child, &info, WEXITED | WNOWAIT), 0);
    f.code = 0;
    ck_assert_int_eq(inject_plan_make(&p, child, NULL, &f), -(int)MP_E_TARGET_EXITED);
    waitpid(child, NULL, 0);
    f.code = 0;
    ck_assert_int_eq(inject_plan_make(&p, 0x7ffffffe, NULL, &f), -(int)MP_E_ESRCH);
    f.code = 0;
    ck_assert_int_eq(inject_plan_make(&p, getpid(), NULL, &f), -(int)MP_E_NOT_PYTHON);
    ck_assert_ptr_null(p);
    inject_plan_free(NULL);
}
END_TEST

/* --- what is left ------------------------------------------------------------------------ */

static struct mp_failure failure;

START_TEST(test_verify_clean)
{
    struct inject_snapshot *before;
    struct inject_diff d;
    int fd, extra;
    pid_t child;
    if (access(python, X_OK) < 0)
        return;
    child = start_python(WAIT_PY, &fd);
    ck_assert_int_eq(inject_snapshot_take(&before, child, &failure), 0);
    ck_assert_int_eq(inject_verify(child, before, &d, &failure), 0);
    ck_assert(d.clean && d.kind[INJECT_MAPPINGS].before == d.kind[INJECT_MAPPINGS].after);
    ck_assert_uint_gt(d.kind[INJECT_MAPPINGS].after, 10);
    for (extra = 0; extra < INJECT_KINDS; extra++)
        ck_assert(d.kind[extra].ours == 0 && d.kind[extra].changed == 0);
    ck_assert_str_eq(d.detail, "");
    ck_assert_int_eq(inject_verify(child, NULL, &d, &failure), 0);
    ck_assert(d.clean);
    ck_assert_int_eq(inject_wait_clean(child, before, 100, &d, &failure), 1);
    stop_python(child, fd);
    ck_assert_int_eq(inject_verify(child, before, &d, &failure), -(int)MP_E_TARGET_EXITED);
    inject_snapshot_free(before);
}
END_TEST

/* A first second thread that allocates makes glibc reserve an arena for good. */
START_TEST(test_verify_arena)
{
    const struct timespec step = {.tv_nsec = 10000000};
    struct inject_snapshot *before;
    struct inject_diff d = {.detail = ""};
    int fd, tries = 500;
    pid_t child;
    if (access(python, X_OK) < 0)
        return;
    child = start_python("import sys, threading\nprint(1, flush=True)\nsys.stdin.readline()\n"
                         "t = threading.Thread(target=lambda: b'x' * 10000)\nt.start()\nt.join()\nsys.stdin.read()",
                         &fd);
    ck_assert_int_eq(inject_snapshot_take(&before, child, &failure), 0);
    ck_assert_int_eq(write(fd, "\n", 1), 1);
    while (tries-- && !strstr(d.detail, "malloc arena")) {
        nanosleep(&step, NULL);
        ck_assert_int_eq(inject_verify(child, before, &d, &failure), 0);
    }
    ck_assert_msg(strstr(d.detail, "malloc arena") != NULL, "%s", d.detail);
    ck_assert_ptr_null(strstr(d.detail, "left"));
    ck_assert(d.clean); /* libc's, not ours */
    stop_python(child, fd);
    inject_snapshot_free(before);
}
END_TEST

/* Puts into this process what an agent would leave. */
static char *leave_agent(int *ret_fd)
{
    struct mp_control *c;
    char *at;
    int fd = (int)syscall(SYS_memfd_create, MP_AGENT_NAME, MFD_CLOEXEC);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(ftruncate(fd, 16384), 0);
    at = mmap(NULL, 16384, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    ck_assert_ptr_ne(at, MAP_FAILED);
    c = (struct mp_control *)(at + 4096 + 64 * 3);
    *c = (struct mp_control){.magic = MP_CONTROL_MAGIC, .abi = MP_ABI, .size = sizeof(*c), .pid = getpid(),
                             .agent_tid = (int32_t)syscall(SYS_gettid), .state = MP_STATE_HOOKED};
    *ret_fd = fd;
    return at;
}

START_TEST(test_find_agent)
{
    struct inject_agent a;
    struct mp_control *c;
    int fd;
    char *at;
    ck_assert_int_eq(inject_find_agent(getpid(), &a, &failure), 0);
    at = leave_agent(&fd);
    c = (struct mp_control *)(at + 4096 + 64 * 3);
    ck_assert_int_eq(inject_find_agent(getpid(), &a, &failure), 1);
    ck_assert(a.alive && a.control_addr == (uint64_t)(uintptr_t)c && a.control.state == MP_STATE_HOOKED);
    ck_assert_int_eq(inject_request_detach(getpid(), &a, &failure), 0);
    ck_assert_uint_eq(c->detach_request, 1);
    c->agent_tid = 0x7ffffff0;
    ck_assert_int_eq(inject_request_detach(getpid(), &a, &failure), -(int)MP_E_NOT_INJECTED); /* another one now */
    failure.code = 0;
    ck_assert_int_eq(inject_find_agent(getpid(), &a, &failure), 1);
    ck_assert(!a.alive);
    c->abi = MP_ABI + 1;
    ck_assert_int_eq(inject_find_agent(getpid(), &a, &failure), -(int)MP_E_ABI);
    munmap(at, 16384);
    close(fd);
}
END_TEST

START_TEST(test_find_agent_in_fork)
{
    struct inject_agent a;
    int fd, go[2], ready[2];
    pid_t child;
    char *at = leave_agent(&fd), c;
    ck_assert_int_eq(pipe(go), 0);
    ck_assert_int_eq(pipe(ready), 0);
    child = fork();
    if (child == 0) {
        struct mp_control *copy = (struct mp_control *)(at + 4096 + 64 * 3);
        copy->agent_tid = getpid(); /* by chance, a thread of the child has the number */
        close(go[1]);
        close(ready[0]);
        close(ready[1]);
        _exit(read(go[0], &c, 1) == 0 ? 0 : 1);
    }
    close(ready[1]);
    ck_assert_int_eq(read(ready[0], &c, 1), 0);
    close(ready[0]);
    ck_assert_int_eq(inject_find_agent(child, &a, &failure), 1);
    ck_assert_int_eq(a.control.agent_tid, child);
    ck_assert(!a.alive); /* the parent's agent, copied */
    close(go[0]);
    close(go[1]);
    waitpid(child, NULL, 0);
    munmap(at, 16384);
    close(fd);
}
END_TEST

START_TEST(test_verify_ours)
{
    struct inject_snapshot *before;
    struct inject_diff d;
    int fd, pair[2];
    char *at, *region;
    ck_assert_int_eq(inject_snapshot_take(&before, getpid(), &failure), 0);
    at = leave_agent(&fd);
    region = mmap(NULL, MP_REGION_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memcpy(region, MP_REGION_MAGIC, 8);
    mprotect(region, MP_LOADER_SIZE, PROT_READ | PROT_EXEC);
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    ck_assert_int_eq(inject_verify(getpid(), before, &d, &failure), 0);
    ck_assert(!d.clean);
    ck_assert_uint_ge(d.kind[INJECT_MAPPINGS].ours, 3); /* the memfd, the region's two parts */
    ck_assert_uint_eq(d.kind[INJECT_FDS].ours, 1);
    ck_assert_uint_ge(d.kind[INJECT_FDS].changed, 2); /* sockets: not provably ours */
    ck_assert_ptr_nonnull(strstr(d.detail, "mempulse-agent"));
    ck_assert_int_eq(inject_wait_clean(getpid(), before, 5, &d, &failure), 0);
    munmap(at, 16384);
    munmap(region, MP_REGION_SIZE);
    close(fd);
    close(pair[0]);
    close(pair[1]);
    ck_assert_int_eq(inject_verify(getpid(), before, &d, &failure), 0);
    ck_assert_msg(d.clean, "%s", d.detail);
    inject_snapshot_free(before);
}
END_TEST

static void *sleep_blocked(void *ms)
{
    uint64_t all = ~0ull; /* libc would leave two of its own out */
    syscall(SYS_rt_sigprocmask, SIG_SETMASK, &all, NULL, sizeof(all));
    usleep(*(useconds_t *)ms * 1000);
    return NULL;
}

/* Our last thread, with no mark left, is waited for; one of the target's is not, for long. */
START_TEST(test_departing)
{
    struct inject_snapshot *before;
    struct inject_diff d;
    useconds_t brief = 40, lasting = 60000;
    pthread_t t;
    ck_assert_int_eq(inject_snapshot_take(&before, getpid(), &failure), 0);
    ck_assert_int_eq(pthread_create(&t, NULL, sleep_blocked, &brief), 0);
    usleep(10000);
    ck_assert_int_eq(inject_wait_clean(getpid(), before, 5000, &d, &failure), 1);
    ck_assert_uint_eq(d.departing, 0);
    ck_assert_uint_eq(d.kind[INJECT_THREADS].changed, 0);
    pthread_join(t, NULL);
    ck_assert_int_eq(pthread_create(&t, NULL, sleep_blocked, &lasting), 0);
    usleep(10000);
    ck_assert_int_eq(inject_wait_clean(getpid(), before, 5000, &d, &failure), 1);
    ck_assert_uint_eq(d.departing, 1);
    inject_snapshot_free(before);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("libc");
    TCase *t = tcase_create("libc");
    SRunner *r = srunner_create(s);
    int failed;
    tcase_set_timeout(t, 30);
    tcase_add_loop_test(t, test_version, 0, sizeof(versions) / sizeof(versions[0]));
    tcase_add_test(t, test_descriptor);
    tcase_add_test(t, test_self_functions);
    tcase_add_test(t, test_self_gadgets);
    tcase_add_test(t, test_exit_gadget_runs);
    tcase_add_test(t, test_self_threads);
    tcase_add_test(t, test_self_unsafe);
    tcase_add_test(t, test_python);
    tcase_add_test(t, test_python_refusals);
    tcase_add_test(t, test_verify_clean);
    tcase_add_test(t, test_verify_arena);
    tcase_add_test(t, test_find_agent);
    tcase_add_test(t, test_find_agent_in_fork);
    tcase_add_test(t, test_verify_ours);
    tcase_add_test(t, test_departing);
    suite_add_tcase(s, t);
    srunner_run_all(r, CK_NORMAL);
    failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
