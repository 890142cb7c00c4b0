/* The safe-point rule. See safepoint.h and docs/ARCHITECTURE.md. */
#include "inject/safepoint.h"

#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>

#include "target/remote.h"

#define SAFEPOINT_CS64 0x33u /* __USER_CS, arch/x86/include/asm/segment.h */

#ifndef SYS_futex_waitv
#define SYS_futex_waitv 449
#endif

/* Calls in which a thread may wait: they hold nothing of libc's. The kernel
 * interrupts them only while they wait, so reading a disk is never meant. eintr:
 * signal(7) lists the call among those that a bare stop ends with EINTR. */
static const struct safepoint_call {
    int nr;
    const char *name;
    bool eintr;
} calls[] = {
    {SYS_read, "read", false},
    {SYS_write, "write", false},
    {SYS_readv, "readv", false},
    {SYS_writev, "writev", false},
    {SYS_poll, "poll", false},
    {SYS_ppoll, "ppoll", false},
    {SYS_select, "select", false},
    {SYS_pselect6, "pselect6", false},
    {SYS_nanosleep, "nanosleep", false},
    {SYS_clock_nanosleep, "clock_nanosleep", false},
    {SYS_restart_syscall, "restart_syscall", false},
    {SYS_pause, "pause", false},
    {SYS_accept, "accept", false},
    {SYS_accept4, "accept4", false},
    {SYS_connect, "connect", false},
    {SYS_recvfrom, "recvfrom", false},
    {SYS_recvmsg, "recvmsg", false},
    {SYS_recvmmsg, "recvmmsg", false},
    {SYS_sendto, "sendto", false},
    {SYS_sendmsg, "sendmsg", false},
    {SYS_sendmmsg, "sendmmsg", false},
    {SYS_wait4, "wait4", false},
    {SYS_waitid, "waitid", false},
    {SYS_futex, "futex", false},
    {SYS_futex_waitv, "futex_waitv", false},
    {SYS_flock, "flock", false},
    {SYS_fcntl, "fcntl", false},
    {SYS_msgrcv, "msgrcv", false},
    {SYS_msgsnd, "msgsnd", false},
    {SYS_mq_timedreceive, "mq_timedreceive", false},
    {SYS_mq_timedsend, "mq_timedsend", false},
    {SYS_rt_sigsuspend, "rt_sigsuspend", false},
    {SYS_epoll_wait, "epoll_wait", true},
    {SYS_epoll_pwait, "epoll_pwait", true},
    {SYS_epoll_pwait2, "epoll_pwait2", true},
    {SYS_semop, "semop", true},
    {SYS_semtimedop, "semtimedop", true},
    {SYS_rt_sigtimedwait, "rt_sigtimedwait", true},
    {SYS_io_getevents, "io_getevents", true},
    {SYS_io_pgetevents, "io_pgetevents", true},
    {SYS_io_uring_enter, "io_uring_enter", true},
};

static const struct safepoint_call *safepoint_call(long nr)
{
    for (size_t i = 0; i < sizeof calls / sizeof *calls; i++)
        if (calls[i].nr == nr)
            return &calls[i];
    return NULL;
}

static const struct plan_range *safepoint_range(const struct inject_plan *p, raddr_t at, bool stack)
{
    for (unsigned i = 0; i < p->unsafe_count; i++) {
        const struct plan_range *r = &p->unsafe[i];
        if (at >= r->lo && at < r->hi && (!stack || r->stack_too))
            return r;
    }
    return NULL;
}

/* Waiting in the kernel, to be woken by something outside: not merely on the way
 * out of a call that is done. */
static bool safepoint_parked(const struct safepoint_view *v)
{
    long nr = (long)v->regs.orig_rax;
    const struct safepoint_call *c = nr >= 0 && v->after_syscall ? safepoint_call(nr) : NULL;
    return c && (remote_restart_kind(&v->regs) != REMOTE_RESTART_NONE ||
                 (c->eintr && (long)v->regs.rax == -4 /* EINTR */));
}

static struct safepoint_answer safepoint_judge_text(const struct inject_plan *p, const struct safepoint_view *v)
{
    struct safepoint_answer a = {SAFEPOINT_OK, NULL, 0, 0};
    const struct safepoint_call *c = safepoint_call((long)v->regs.orig_rax);
    const struct plan_range *r = safepoint_range(p, v->regs.rip, false);
    if ((long)v->regs.orig_rax >= 0 && !c)
        a.verdict = SAFEPOINT_CALL;
    else if (r) {
        a.verdict = SAFEPOINT_TEXT;
        a.what = r->what;
    }
    return a;
}

static struct safepoint_answer safepoint_judge_stack(const struct inject_plan *p, const struct safepoint_view *v)
{
    struct safepoint_answer a = {SAFEPOINT_OK, NULL, 0, 0};
    for (size_t i = 0; i < v->stack_words; i++) {
        const struct plan_range *r = safepoint_range(p, v->stack[i], true);
        if (!r)
            continue;
        a.verdict = SAFEPOINT_STACK;
        a.what = r->what;
        a.word = v->stack[i];
        a.word_at = v->regs.rsp + i * 8;
        break;
    }
    return a;
}

struct safepoint_answer safepoint_judge(const struct inject_plan *p, const struct safepoint_view *v)
{
    struct safepoint_answer a = {SAFEPOINT_OK, NULL, 0, 0};
    bool parked = safepoint_parked(v);
    if (v->regs.cs != SAFEPOINT_CS64)
        a.verdict = SAFEPOINT_MODE;
    else if (v->r_state != 0)
        a.verdict = SAFEPOINT_LINKER;
    else if (!parked && v->unlocked && p->single_arena)
        a.verdict = SAFEPOINT_BUSY;
    else if (!parked)
        a = safepoint_judge_text(p, v);
    if (a.verdict == SAFEPOINT_OK)
        a = safepoint_judge_stack(p, v);
    return a;
}

/* libc's wrapper keeps a few words between the `syscall` and its return address. */
#define SAFEPOINT_CALLER_WORDS 8

bool safepoint_caller_retries(const struct inject_plan *p, const struct safepoint_view *v)
{
    long nr = (long)v->regs.orig_rax;
    if ((nr != SYS_epoll_wait && nr != SYS_epoll_pwait) || (int)v->regs.r10 < 0)
        return false;
    for (size_t i = 0; i < v->stack_words && i < SAFEPOINT_CALLER_WORDS; i++)
        for (unsigned k = 0; k < p->retries_count; k++)
            if (v->stack[i] >= p->retries[k].lo && v->stack[i] < p->retries[k].hi)
                return true;
    return false;
}

bool safepoint_is_return(const unsigned char b[7])
{
    if (b[2] == 0xe8)
        return true;
    /* FF /2: opcode, ModRM with reg 2, then SIB and displacement as ModRM says. */
    for (unsigned len = 2; len <= 7; len++) {
        const unsigned char *op = b + 7 - len;
        if (op[0] != 0xff || (op[1] >> 3 & 7) != 2)
            continue;
        unsigned mod = op[1] >> 6, rm = op[1] & 7, want = 2;
        if (mod != 3 && rm == 4)
            want++;
        if (mod == 1)
            want++;
        if (mod == 2 || (mod == 0 && rm == 5))
            want += 4;
        if (want == len)
            return true;
    }
    return false;
}

bool safepoint_has_room(const struct maps *m, raddr_t sp, size_t room)
{
    const struct maps_entry *e = maps_at(m, sp - 1);
    return e && e->write && e->read && sp - e->lo >= room;
}

bool safepoint_own_stack(const struct maps *m, raddr_t sp, raddr_t tcb)
{
    const struct maps_entry *e = maps_at(m, sp - 1);
    return e && ((e->name && !strcmp(e->name, "[stack]")) || (tcb >= sp && tcb < e->hi));
}

int safepoint_rank(const struct proc_syscall *sc, char state)
{
    if (state != 'R' && state != 'S')
        return SAFEPOINT_NEVER;
    if (sc->running)
        return SAFEPOINT_RUNNING;
    const struct safepoint_call *c = sc->nr >= 0 ? safepoint_call(sc->nr) : NULL;
    if (!c)
        return SAFEPOINT_UNLIKELY;
    return c->eintr ? SAFEPOINT_EINTR : SAFEPOINT_PARKED;
}

void safepoint_describe(const struct safepoint_answer *a, char *ret_buf, size_t size)
{
    static const char *const text[] = {
        [SAFEPOINT_OK] = "at a safe point",
        [SAFEPOINT_CALL] = "inside a system call that must not be interrupted",
        [SAFEPOINT_TEXT] = "running in %s",
        [SAFEPOINT_STACK] = "called from %s",
        [SAFEPOINT_LINKER] = "while libraries were being loaded",
        [SAFEPOINT_BUSY] = "computing, and malloc without locks (MALLOC_ARENA_MAX=1) needs it to wait",
        [SAFEPOINT_FOREIGN] = "on a stack that is not the thread's own (a coroutine's, or a signal handler's)",
        [SAFEPOINT_ROOM] = "on a stack without room for a signal frame",
        [SAFEPOINT_MODE] = "running 32-bit code",
    };
    if (a->verdict == SAFEPOINT_TEXT || a->verdict == SAFEPOINT_STACK)
        snprintf(ret_buf, size, a->verdict == SAFEPOINT_TEXT ? "running in %s" : "called from %s",
                 a->what ? a->what : "a library");
    else
        snprintf(ret_buf, size, "%s", text[a->verdict]);
}
