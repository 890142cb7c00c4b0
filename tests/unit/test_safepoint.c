/* The safe-point rule as a table: where a thread stands, and what is said of it. */
#include <check.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>

#include "inject/safepoint.h"
#include "target/remote.h"

enum { LIBC = 0x10000, LD = 0x20000, APP = 0x90000, SP = 0x700000 };

static struct inject_plan plan_of(bool single_arena)
{
    struct inject_plan p = {0};
    p.unsafe[0] = (struct plan_range){LIBC, LIBC + 0x1000, "libc", false};
    p.unsafe[1] = (struct plan_range){LD, LD + 0x1000, "ld.so", true};
    p.unsafe_count = 2;
    p.single_arena = single_arena;
    return p;
}

static const struct row {
    const char *name;
    uint64_t rip;
    long orig_rax, rax;
    bool after_syscall;
    int r_state;
    bool unlocked;
    bool single_arena;
    uint64_t word; /* on the stack, 0: none */
    unsigned cs;
    enum safepoint_verdict want;
} rows[] = {
    {"computing in the interpreter", APP, -1, 5, false, 0, true, false, 0, 0x33, SAFEPOINT_OK},
    {"computing in libc", LIBC + 8, -1, 5, false, 0, true, false, 0, 0x33, SAFEPOINT_TEXT},
    {"in ld.so", LD + 8, -1, 5, false, 0, true, false, 0, 0x33, SAFEPOINT_TEXT},
    {"just behind libc", LIBC + 0x1000, -1, 5, false, 0, true, false, 0, 0x33, SAFEPOINT_OK},
    {"called from ld.so", APP, -1, 5, false, 0, true, false, LD + 8, 0x33, SAFEPOINT_STACK},
    {"called from libc", APP, -1, 5, false, 0, true, false, LIBC + 8, 0x33, SAFEPOINT_OK},
    {"sleeping", LIBC + 8, SYS_clock_nanosleep, -516, true, 0, true, false, 0, 0x33, SAFEPOINT_OK},
    {"sleeping below ld.so", LIBC + 8, SYS_read, -512, true, 0, true, false, LD, 0x33, SAFEPOINT_STACK},
    {"no `syscall` before rip", LIBC + 8, SYS_read, -512, false, 0, true, false, 0, 0x33, SAFEPOINT_TEXT},
    {"read that is done", LIBC + 8, SYS_read, 100, true, 0, true, false, 0, 0x33, SAFEPOINT_TEXT},
    {"mmap that is done", LIBC + 8, SYS_mmap, 4096, true, 0, true, false, 0, 0x33, SAFEPOINT_CALL},
    {"mmap to be restarted", LIBC + 8, SYS_mmap, -513, true, 0, true, false, 0, 0x33, SAFEPOINT_CALL},
    {"epoll_wait", LIBC + 8, SYS_epoll_wait, -4, true, 0, true, false, 0, 0x33, SAFEPOINT_OK},
    {"modules are being added", APP, -1, 5, false, 1, true, false, 0, 0x33, SAFEPOINT_LINKER},
    {"one arena, computing", APP, -1, 5, false, 0, true, true, 0, 0x33, SAFEPOINT_BUSY},
    {"one arena, sleeping", LIBC + 8, SYS_poll, -516, true, 0, true, true, 0, 0x33, SAFEPOINT_OK},
    {"one arena, two threads", APP, -1, 5, false, 0, false, true, 0, 0x33, SAFEPOINT_OK},
    {"32-bit code", APP, -1, 5, false, 0, true, false, 0, 0x23, SAFEPOINT_MODE},
};

START_TEST(test_judge)
{
    const struct row *r = &rows[_i];
    struct inject_plan p = plan_of(r->single_arena);
    uint64_t stack[8] = {APP, 1, 2, r->word, 4};
    struct safepoint_view v = {.after_syscall = r->after_syscall, .r_state = r->r_state, .unlocked = r->unlocked,
                               .stack = stack, .stack_words = 8};
    v.regs.rip = r->rip;
    v.regs.rsp = SP;
    v.regs.cs = r->cs;
    v.regs.orig_rax = (uint64_t)r->orig_rax;
    v.regs.rax = (uint64_t)r->rax;
    struct safepoint_answer a = safepoint_judge(&p, &v);
    ck_assert_msg(a.verdict == r->want, "%s: %d, not %d", r->name, a.verdict, r->want);
    if (a.verdict == SAFEPOINT_STACK)
        ck_assert(a.word_at == SP + 24 && a.word == r->word && !strcmp(a.what, "ld.so"));
}
END_TEST

static const struct {
    unsigned char bytes[7];
    bool want;
} calls[] = {
    {{0x90, 0x90, 0xe8, 1, 2, 3, 4}, true},              /* call rel32 */
    {{0x90, 0x90, 0x90, 0x90, 0x90, 0xff, 0xd0}, true},  /* call *%rax */
    {{0x90, 0x90, 0x90, 0x90, 0xff, 0x50, 0x08}, true},  /* call *8(%rax) */
    {{0x90, 0x90, 0x90, 0xff, 0x54, 0x24, 0x08}, true},  /* call *8(%rsp) */
    {{0x90, 0xff, 0x15, 1, 2, 3, 4}, true},              /* call *disp32(%rip) */
    {{0xff, 0x94, 0x24, 1, 2, 3, 4}, true},              /* call *disp32(%rsp) */
    {{0x90, 0x90, 0x90, 0x90, 0x90, 0xff, 0xe0}, false}, /* jmp *%rax */
    {{0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0xc3}, false},
    {{0xe8, 1, 2, 3, 4, 0x90, 0x90}, false},             /* a call, but not just before */
};

START_TEST(test_is_return)
{
    ck_assert_int_eq(safepoint_is_return(calls[_i].bytes), calls[_i].want);
}
END_TEST

START_TEST(test_room)
{
    struct maps_entry e[2] = {{.lo = 0x1000, .hi = 0x5000, .read = true, .write = true},
                              {.lo = 0x5000, .hi = 0x9000, .read = true}};
    struct maps m = {.entry = e, .count = 2};
    ck_assert(safepoint_has_room(&m, 0x4000, 0x3000));
    ck_assert(!safepoint_has_room(&m, 0x4000, 0x3001));
    ck_assert(safepoint_has_room(&m, 0x5000, 0x1000)); /* an empty stack */
    ck_assert(!safepoint_has_room(&m, 0x6000, 0x10));  /* not writable */
    ck_assert(!safepoint_has_room(&m, 0xa000, 0x10));  /* nowhere */
}
END_TEST

START_TEST(test_own_stack)
{
    struct maps_entry e[3] = {{.lo = 0x1000, .hi = 0x5000, .read = true, .write = true, .name = ""},
                              {.lo = 0x6000, .hi = 0x9000, .read = true, .write = true, .name = ""},
                              {.lo = 0xa000, .hi = 0xf000, .read = true, .write = true, .name = "[stack]"}};
    struct maps m = {.entry = e, .count = 3};
    ck_assert(safepoint_own_stack(&m, 0x4000, 0x4f00));
    ck_assert(!safepoint_own_stack(&m, 0x4000, 0x3f00)); /* nobody's TCB is below */
    ck_assert(!safepoint_own_stack(&m, 0x4000, 0x8f00));
    ck_assert(!safepoint_own_stack(&m, 0x4000, 0x5000));
    ck_assert(safepoint_own_stack(&m, 0xb000, 0x8f00));  /* the first thread's TCB is ld.so's */
    ck_assert(!safepoint_own_stack(&m, 0x5800, 0x5900));
}
END_TEST

/* Where a thread may be borrowed though its call answers EINTR, the call is begun anew. */
START_TEST(test_eintr_is_mended)
{
    for (long nr = 0; nr < 600; nr++) {
        struct proc_syscall sc = {.nr = (int)nr};
        struct user_regs_struct regs = {.orig_rax = (unsigned long long)nr, .rax = (unsigned long long)-EINTR};

        if (safepoint_rank(&sc, 'S') == SAFEPOINT_EINTR)
            ck_assert_msg(remote_restart_kind(&regs) == REMOTE_RESTART_US, "call %ld", nr);
    }
}
END_TEST

START_TEST(test_rank)
{
    struct proc_syscall sleeping = {.nr = SYS_poll}, epoll = {.nr = SYS_epoll_wait}, other = {.nr = SYS_mmap};
    struct proc_syscall running = {.running = true, .nr = -1};
    ck_assert_int_eq(safepoint_rank(&sleeping, 'S'), SAFEPOINT_PARKED);
    ck_assert_int_eq(safepoint_rank(&running, 'R'), SAFEPOINT_RUNNING);
    ck_assert_int_eq(safepoint_rank(&epoll, 'S'), SAFEPOINT_EINTR);
    ck_assert_int_eq(safepoint_rank(&other, 'S'), SAFEPOINT_UNLIKELY);
    for (const char *s = "DTtZXI"; *s; s++)
        ck_assert_int_eq(safepoint_rank(&sleeping, *s), SAFEPOINT_NEVER);
}
END_TEST

static const struct {
    long nr, rax, arg4;
    enum remote_restart want;
} restarts[] = {
    {-1, -512, 0, REMOTE_RESTART_NONE}, /* a value that only looks like one */
    {SYS_read, -512, 0, REMOTE_RESTART_KERNEL},
    {SYS_read, 12, 0, REMOTE_RESTART_NONE},
    {SYS_clock_nanosleep, -516, 0, REMOTE_RESTART_KERNEL},
    {SYS_select, -514, 0, REMOTE_RESTART_KERNEL},
    {SYS_recvfrom, -4, 0, REMOTE_RESTART_US},
    {SYS_semop, -4, 0, REMOTE_RESTART_US},
    {SYS_epoll_wait, -4, -1, REMOTE_RESTART_US},
    {SYS_epoll_wait, -4, 0xffffffffl, REMOTE_RESTART_US}, /* an int in the register's lower half */
    {SYS_epoll_wait, -4, 1500, REMOTE_RESTART_US},
    {SYS_close, -4, 0, REMOTE_RESTART_NONE},
};

START_TEST(test_restart)
{
    struct user_regs_struct regs = {.orig_rax = (uint64_t)restarts[_i].nr, .rax = (uint64_t)restarts[_i].rax,
                                    .r10 = (uint64_t)restarts[_i].arg4};
    ck_assert_int_eq(remote_restart_kind(&regs), restarts[_i].want);
}
END_TEST

/* An epoll wait with a timeout, called by CPython: EINTR is exact, a restart is not. */
START_TEST(test_caller_retries)
{
    struct inject_plan p = {.retries = {{0x1000, 0x2000, "CPython", false}}, .retries_count = 1};
    uint64_t stack[10] = {0, 0, 0x1800, 0, 0, 0, 0, 0, 0x1900, 0};
    struct safepoint_view v = {.regs = {.orig_rax = SYS_epoll_wait, .r10 = 1500}, .stack = stack, .stack_words = 10};

    ck_assert(safepoint_caller_retries(&p, &v));
    v.regs.r10 = 0xffffffffu; /* no timeout: a restart is exact, whoever called */
    ck_assert(!safepoint_caller_retries(&p, &v));
    v.regs.r10 = 1500;
    v.regs.orig_rax = SYS_semop;
    ck_assert(!safepoint_caller_retries(&p, &v));
    v.regs.orig_rax = SYS_epoll_pwait;
    stack[2] = 0x2000; /* just beyond; 0x1900 is a caller's caller */
    ck_assert(!safepoint_caller_retries(&p, &v));
    v.stack_words = 0;
    ck_assert(!safepoint_caller_retries(&p, &v));
}
END_TEST

#define COUNT(a) (int)(sizeof(a) / sizeof *(a))

int main(void)
{
    Suite *s = suite_create("safepoint");
    TCase *t = tcase_create("safepoint");
    tcase_add_loop_test(t, test_judge, 0, COUNT(rows));
    tcase_add_loop_test(t, test_is_return, 0, COUNT(calls));
    tcase_add_test(t, test_room);
    tcase_add_test(t, test_own_stack);
    tcase_add_test(t, test_eintr_is_mended);
    tcase_add_test(t, test_rank);
    tcase_add_test(t, test_caller_retries);
    tcase_add_loop_test(t, test_restart, 0, COUNT(restarts));
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
