/* Borrowing a thread. See borrow.h.
 *
 * Candidates are ranked by what /proc says they do, without stopping anything;
 * then one is seized, interrupted and judged. What stands in the way is mostly
 * over within a millisecond, so it is let go, and the search goes on. */
#include "inject/borrow.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fault.h"
#include "base/utf8.h"
#include "inject/guard.h"
#include "inject/turns.h"
#include "target/disasm.h"
#include "target/mem.h"

#define BORROW_LOOK_MAX 512    /* threads looked at in one round */
#define BORROW_GOOD_ENOUGH 4   /* parked threads found: no more are looked for */
#define BORROW_STACK_NS 250000000ull /* how long a stack without ld.so and allocators is waited for */
#define BORROW_CODE_BACK 24    /* bytes of code shown before the pc, for -v */
#define BORROW_CODE_SHOWN 14   /* instructions */
#define BORROW_EXEC_MS 20      /* in which an exec has given the process a live leader again */
#define BORROW_TRY 4           /* candidates tried in one round */
#define BORROW_STOP_NS 200000000ull /* for one thread to come to its stop */
#define BORROW_CHANGE_NS 300000000ull /* an exit or an exec that has begun shows within that, from the last SIGKILL */
#define BORROW_KILLS_NS 2000000000ull /* that is on its way, which is waited for for so long */
#define BORROW_KILLS_STEP_NS 10000000ull /* between two looks */
#define BORROW_OWN_STACK (64 * 1024)    /* of the tracing thread's stack; 33 KiB were seen in use */
#define BORROW_UNSTICK_NS 50000 /* between two looks whether one that did not has done so since */

struct borrow_candidate {
    pid_t tid;
    int rank;
};

struct borrow_job {
    void (*fn)(void *arg);
    void *arg;
    struct turns turns;
};

/* So that none of its pages is made in the pause. */
static __attribute__((noinline)) void borrow_touch_stack(void)
{
    volatile unsigned char stack[BORROW_OWN_STACK];
    for (size_t i = 0; i < sizeof stack; i += MP_PAGE)
        stack[i] = 0;
}

static void *borrow_job(void *arg)
{
    struct borrow_job *j = arg;
    /* Of this thread (setpriority(2), NPTL). Who has -20 is given it again without the right to it. */
    bool ahead = setpriority(PRIO_PROCESS, 0, -19) == 0 && setpriority(PRIO_PROCESS, 0, -20) == 0;
    prctl(PR_SET_TIMERSLACK, 1);
    borrow_touch_stack();
    turns_begin(&j->turns, ahead);
    j->fn(j->arg);
    turns_end(&j->turns);
    return NULL;
}

/* By a thread that is as far ahead as the one that it watches. */
static void borrow_watch(struct turns *t)
{
    errno = 0;
    int nice = getpriority(PRIO_PROCESS, 0);
    bool ahead = errno == 0 && setpriority(PRIO_PROCESS, 0, -20) == 0;
    turns_watch(t);
    if (ahead)
        (void)!setpriority(PRIO_PROCESS, 0, nice);
}

int borrow_run(void (*fn)(void *arg), void *arg)
{
    struct borrow_job job = {.fn = fn, .arg = arg};
    struct guard guard;
    pthread_t thread;
    sigset_t all, old, told;
    struct sigaction plain = {.sa_handler = SIG_DFL}, was;
    (void)guard_start(&guard); /* without it, who stops us stops the target too */
    sigaction(SIGCHLD, &plain, &was);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    told = old;
    sigaddset(&told, SIGCHLD); /* that of a stop is for the thread that waits for it */
    int e = pthread_create(&thread, NULL, borrow_job, &job);
    pthread_sigmask(SIG_SETMASK, &told, NULL);
    if (e == 0) {
        borrow_watch(&job.turns);
        pthread_join(thread, NULL);
    }
    sigaction(SIGCHLD, &was, NULL);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    guard_end(&guard);
    return e;
}

static int borrow_compare(const void *a, const void *b)
{
    const struct borrow_candidate *x = a, *y = b;
    return x->rank - y->rank;
}

static int borrow_look(pid_t pid, pid_t tid)
{
    struct proc_stat st;
    struct proc_syscall sc;
    if (proc_stat_read(&st, pid, tid) < 0)
        return SAFEPOINT_NEVER;
    if (proc_syscall_read(&sc, pid, tid) < 0) /* a kernel without it: only the state is known */
        sc = (struct proc_syscall){.running = true};
    return safepoint_rank(&sc, st.state);
}

/* Ranks the threads. A count, 0 when none can be used now, or -errno. The array
 * is the caller's to free. */
static long borrow_candidates(struct borrow *b, struct borrow_candidate **ret)
{
    pid_t pid = b->plan->facts.pid, *tids;
    size_t n, kept = 0, good = 0;
    int r = proc_tasks(pid, &tids, &n);
    if (r < 0)
        return r;
    struct borrow_candidate *c = calloc(n ? n : 1, sizeof *c);
    if (!c) {
        free(tids);
        return -ENOMEM;
    }
    for (size_t i = 0; i < n && i < BORROW_LOOK_MAX && good < BORROW_GOOD_ENOUGH; i++) {
        int rank = borrow_look(pid, tids[i]);
        if (rank == SAFEPOINT_NEVER)
            continue;
        c[kept++] = (struct borrow_candidate){tids[i], rank};
        good += rank == SAFEPOINT_PARKED;
    }
    free(tids);
    qsort(c, kept, sizeof *c, borrow_compare);
    *ret = c;
    return (long)kept;
}

/* An exec by a thread that isn't the leader gives it the leader's id, and with that what we
 * seized: the thread whose id is nobody's any more stands, or will, in the new program.
 * True when so, or when the leader is ours anyway: *t is the leader then, asked to stop. */
static bool borrow_follow(const struct borrow *b, struct tracee *t)
{
    struct tracee leader;
    tracee_init(&leader, b->plan->facts.pid);
    if (t->tid == leader.tid || tracee_interrupt(&leader) < 0)
        return false;
    leader.seized = true;
    *t = leader;
    return true;
}

void borrow_unstick(struct borrow *b)
{
    unsigned kept = 0;
    for (unsigned i = 0; i < b->stuck_count; i++) {
        struct tracee *t = &b->stuck[i];
        struct tracee_stop stop;
        struct user_regs_struct regs;
        if (tracee_wait(t, 0, &stop) < 0 || (stop.event == TRACEE_GONE && borrow_follow(b, t)))
            b->stuck[kept++] = *t;
        else if (t->stopped && stop.event == TRACEE_TRAP && tracee_get_regs(t, &regs) == 0)
            remote_decline(t, &regs, false);
        else if (t->stopped)
            tracee_detach(t, stop.event == TRACEE_SIGNAL ? stop.sig : 0);
    }
    b->stuck_count = kept;
}

static bool borrow_is_stuck(const struct borrow *b, pid_t tid)
{
    for (unsigned i = 0; i < b->stuck_count; i++)
        if (b->stuck[i].tid == tid)
            return true;
    return false;
}

/* Waits for the interrupt's stop. Signals that come first are delivered. */
static int borrow_await(struct borrow *b, struct tracee_stop *ret_stop)
{
    uint64_t deadline = b->seize_ns + BORROW_STOP_NS;
    if (FAULT_POINT("await", 0))
        return -ETIMEDOUT;
    for (;;) {
        uint64_t next = clock_mono_ns() + BORROW_UNSTICK_NS;
        bool to_end = !b->stuck_count || next >= deadline;
        int r = tracee_wait(&b->t, to_end ? deadline : next, ret_stop);
        if (r == -ETIMEDOUT && !to_end) {
            borrow_unstick(b);
            continue;
        }
        if (r < 0)
            return r;
        b->stop_ns = clock_mono_ns();
        if (ret_stop->event == TRACEE_TRAP || ret_stop->event == TRACEE_GROUP_STOP ||
            ret_stop->event == TRACEE_GONE)
            return 0;
        r = tracee_cont(&b->t, ret_stop->event == TRACEE_SIGNAL ? ret_stop->sig : 0);
        if (r < 0 && r != -ESRCH)
            return r;
    }
}

static bool borrow_is_syscall(const unsigned char insn[2])
{
    return insn[0] == 0x0f && insn[1] == 0x05;
}

/* Whether libc has the thread's malloc do without locks. What can't be read is not taken for
 * harmless. Where threads have arenas of their own nobody asks. */
static bool borrow_unlocked(const struct borrow *b)
{
    const struct inject_plan *p = b->plan;
    uint32_t multiple;
    if (!p->single_arena)
        return false;
    if (p->facts.glibc_minor >= PLAN_GLIBC_NOTES)
        return plan_single_threaded(p, b->t.tid);
    return mem_read(b->t.tid, b->regs.fs_base + PLAN_TCB_MULTIPLE_THREADS, &multiple, sizeof multiple) < 0 || !multiple;
}

/* The `syscall` of the plan, r_state, the two bytes before rip and the stack in one
 * call. What can't be read is taken for harmless: the stack may end. false when the
 * plan's `syscall` is not there: the program is another one by now. */
static bool borrow_view(struct borrow *b, struct safepoint_view *v, uint64_t stack[SAFEPOINT_STACK_WORDS])
{
    int r_state = 0;
    unsigned char ours[2] = {0, 0}, insn[2] = {0, 0};
    struct iovec local[4] = {{ours, sizeof ours}, {&r_state, sizeof r_state}, {insn, sizeof insn},
                             {stack, SAFEPOINT_STACK_WORDS * sizeof *stack}};
    struct iovec remote[4] = {{(void *)b->plan->syscall_insn, sizeof ours},
                              {(void *)(b->plan->r_state ? b->plan->r_state : b->regs.rsp), sizeof r_state},
                              {(void *)(b->regs.rip - 2), sizeof insn},
                              {(void *)b->regs.rsp, SAFEPOINT_STACK_WORDS * sizeof *stack}};
    size_t head = sizeof ours + sizeof r_state + sizeof insn;
    ssize_t n = process_vm_readv(b->t.tid, local, 4, remote, 4, 0);
    *v = (struct safepoint_view){
        .regs = b->regs,
        .after_syscall = borrow_is_syscall(insn),
        .r_state = b->plan->r_state ? r_state : 0,
        .unlocked = borrow_unlocked(b),
        .stack = stack,
        .stack_words = n > (ssize_t)head ? ((size_t)n - head) / sizeof *stack : 0,
    };
    return borrow_is_syscall(ours);
}

/* Judges the stopped thread. A word on the stack that no call precedes is not a
 * return address, and doesn't count. */
static struct safepoint_answer borrow_judge(struct borrow *b)
{
    uint64_t stack[SAFEPOINT_STACK_WORDS];
    struct safepoint_view v;
    b->execed = !borrow_view(b, &v, stack);
    b->caller_retries = safepoint_caller_retries(b->plan, &v);
    for (;;) {
        struct safepoint_answer a = safepoint_judge(b->plan, &v);
        unsigned char before[7];
        if (a.verdict == SAFEPOINT_OK && !safepoint_own_stack(&b->maps, b->regs.rsp, b->regs.fs_base))
            a.verdict = SAFEPOINT_FOREIGN;
        if (a.verdict == SAFEPOINT_OK && !safepoint_has_room(&b->maps, b->regs.rsp, b->room))
            a.verdict = SAFEPOINT_ROOM;
        /* A word that stays is a stale one, in a frame that never overwrote it. Nothing
         * of libc runs on the borrowed thread, and what runs on ours waits for its
         * locks, so a caller in ld.so or an allocator is a reason to wait, not to refuse. */
        if (a.verdict == SAFEPOINT_STACK && b->any_stack && b->plan->r_state && !b->plan->single_arena)
            a.verdict = SAFEPOINT_OK;
        if (a.verdict != SAFEPOINT_STACK ||
            (mem_read(b->t.tid, a.word - sizeof before, before, sizeof before) == 0 && safepoint_is_return(before)))
            return a;
        stack[(a.word_at - b->regs.rsp) / 8] = 0;
    }
}

static void borrow_sleep_ms(long ms)
{
    struct timespec ts = {0, ms * 1000000};
    nanosleep(&ts, NULL);
}

/* Between two looks: 1 ms at first, then rarer, since every look stops a thread. One
 * that stops meanwhile, long after it was asked to, stands still until it is let go. */
static void borrow_sleep(struct borrow *b)
{
    uint64_t ms = b->attempts < 32 ? 1 : b->attempts < 64 ? 5 : 20;
    uint64_t end = clock_mono_ns() + ms * 1000000u;
    struct timespec ts = {0, BORROW_UNSTICK_NS};
    while (b->stuck_count && clock_mono_ns() < end) {
        nanosleep(&ts, NULL);
        borrow_unstick(b);
    }
    if (clock_mono_ns() < end)
        borrow_sleep_ms((long)ms);
}

static void borrow_account(struct borrow *b)
{
    uint64_t now = clock_mono_ns();
    b->pause_ns = (b->t.let_go_ns > b->stop_ns ? b->t.let_go_ns : now) - b->stop_ns;
    b->attach_ns = now - b->seize_ns;
    b->pause_ns_sum += b->pause_ns;
}

/* An exec leaves other code, or none, where the plan's `syscall` was. */
static bool borrow_same_program(const struct inject_plan *p, pid_t live)
{
    unsigned char insn[2];
    return live > 0 && mem_read(live, p->syscall_insn, insn, sizeof insn) == 0 && borrow_is_syscall(insn);
}

/* Whether the process is still the one that the plan was made for: its number may be
 * another's by now, a sibling's with the same libraries at the same addresses. */
static bool borrow_same_process(const struct inject_plan *p)
{
    struct pollfd end = {p->facts.pidfd, POLLIN, 0};
    struct proc_stat st;
    if (p->facts.pidfd >= 0)
        return poll(&end, 1, 0) == 0;
    return proc_stat_read(&st, p->facts.pid, 0) == 0 && st.starttime == p->facts.starttime;
}

static int borrow_execed(const struct inject_plan *p, struct mp_failure *f)
{
    return mp_fail(f, MP_E_TARGET_EXECED, 0, "process %d replaced its program in the middle of the injection",
                   (int)p->facts.pid);
}

/* No thread of it is seen. While an exec takes the other threads away, none is for a moment. */
static int borrow_exited(const struct inject_plan *p, struct mp_failure *f)
{
    for (int i = 0; i < BORROW_EXEC_MS; i++) {
        if (borrow_same_process(p) && proc_live_task(p->facts.pid) > 0)
            return borrow_execed(p, f);
        borrow_sleep_ms(1);
    }
    return mp_fail(f, MP_E_TARGET_EXITED, 0, "process %d exited in the middle of the injection", (int)p->facts.pid);
}

/* Waits for those threads of its that we traced and that have ended; whether we trace others. An exec waits for
 * each (tracee_detach), and before 5.7 who reads the target's memory waits for the exec (kernel/fork.c,
 * mm_access): first this. One at a time, because a stop, too, is taken by whoever waits for any
 * (kernel/exit.c, wait_task_stopped), and these are left to be told. */
static bool borrow_reap(pid_t pid)
{
    pid_t *tids;
    size_t i, n;
    bool held = false;
    if (proc_tasks(pid, &tids, &n) < 0)
        return false;
    for (i = 0; i < n; i++) {
        siginfo_t info = {.si_pid = 0};
        if (waitid(P_PID, (id_t)tids[i], &info, WEXITED | WNOHANG | WNOWAIT | __WALL | __WNOTHREAD) < 0)
            continue;
        if (info.si_pid == 0 || info.si_code == CLD_TRAPPED || info.si_code == CLD_STOPPED)
            held = true;
        else
            (void)!waitpid(tids[i], NULL, __WALL | __WNOTHREAD | WNOHANG);
    }
    free(tids);
    return held;
}

/* A process that is being killed, or executes, has live threads for a moment still: the one it has then. */
static pid_t borrow_live_later(const struct inject_plan *p)
{
    uint64_t now = clock_mono_ns(), end = now + BORROW_CHANGE_NS, last = now + BORROW_KILLS_NS, look = now;
    for (;;) {
        bool held = borrow_reap(p->facts.pid);
        pid_t live = proc_live_task(p->facts.pid);
        if (now >= look && now < last && proc_kill_pending(p->facts.pid))
            end = now + BORROW_CHANGE_NS;
        if (now >= look)
            look = now + BORROW_KILLS_STEP_NS;
        if (live == -ENOMEM || now >= end || (!held && !borrow_same_program(p, live)))
            return live;
        borrow_sleep_ms(1);
        now = clock_mono_ns();
    }
}

bool borrow_changes(const struct inject_plan *p)
{
    pid_t live = borrow_live_later(p);
    return live != -ENOMEM && !borrow_same_program(p, live);
}

int borrow_gone(const struct inject_plan *p, struct mp_failure *f)
{
    int pid = (int)p->facts.pid;
    pid_t live = borrow_live_later(p);
    if (live == -ENOMEM)
        return mp_fail(f, MP_E_INTERNAL, ENOMEM, "out of memory");
    if (borrow_same_program(p, live))
        return mp_fail(f, MP_E_INJECT, 0, "a thread of process %d ended in the middle of the injection", pid);
    if (live > 0)
        return borrow_execed(p, f);
    return borrow_exited(p, f);
}

bool borrow_has_ended(const struct borrow *b)
{
    struct proc_stat st;
    return !proc_task_lives(b->plan->facts.pid, b->t.tid, &st);
}

/* 0 when the thread was refused since it ends: EPERM, too (kernel/ptrace.c, exit_state). */
static int borrow_refused(struct borrow *b, int err, struct mp_failure *f)
{
    struct proc_status s;
    int pid = (int)b->plan->facts.pid;
    if (proc_status_read(&s, b->plan->facts.pid, b->t.tid) < 0 || s.state == 'Z' || s.state == 'X')
        return 0;
    if (s.tracer > 0)
        return mp_fail(f, MP_E_BUSY_TRACED, -err, "thread %d of process %d is traced by process %d", (int)b->t.tid, pid,
                       (int)s.tracer);
    return mp_fail(f, MP_E_EPERM, -err, "the kernel refuses to trace process %d", pid);
}

/* Whether a thread is that process's; once it is seized its id can't go to another one. */
static bool borrow_same_thread(const struct inject_plan *p, pid_t tid)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/task/%d", (int)p->facts.pid, (int)tid);
    return access(path, F_OK) == 0;
}

/* The thread that was seized has ended, or executes a new program: that is let go of. 0
 * another thread must be found, negative enum mp_err. */
static int borrow_lost(struct borrow *b, struct mp_failure *f)
{
    pid_t pid = b->plan->facts.pid;
    uint64_t deadline = clock_mono_ns() + BORROW_STOP_NS;
    struct timespec ts = {0, BORROW_UNSTICK_NS};
    struct tracee t = b->t;
    bool ours = borrow_is_stuck(b, pid); /* for another reason: it may be the same program */
    if (!borrow_follow(b, &t))
        return 0;
    b->stuck[b->stuck_count++] = t;
    while (!ours && borrow_is_stuck(b, pid) && clock_mono_ns() < deadline) {
        nanosleep(&ts, NULL);
        borrow_unstick(b);
    }
    return ours ? 0 : borrow_execed(b->plan, f);
}

static void borrow_let_go(struct borrow *b)
{
    turns_back();
    tracee_detach(&b->t, 0);
}

/* As borrow_try. */
static int borrow_ask(struct borrow *b, pid_t tid, struct mp_failure *f)
{
    struct tracee_stop stop;
    tracee_release(&b->t);
    tracee_init(&b->t, tid);
    if (tracee_open_mem(&b->t) == -ESRCH)
        return 0;
    if (!b->stuck_count) /* no time: they may have stopped by now */
        turns_near(b->plan->facts.pid, tid);
    b->seize_ns = b->stop_ns = clock_mono_ns();
    int r = tracee_seize(&b->t, b->plan->suspend_seccomp);
    if (r == -EPERM)
        return borrow_refused(b, r, f);
    if (r < 0)
        return 0;
    if (!borrow_same_process(b->plan)) /* a bystander: never stopped, and free when this thread of ours ends */
        return borrow_exited(b->plan, f);
    bool same = borrow_same_thread(b->plan, tid);
    if (tracee_interrupt(&b->t) < 0)
        return borrow_lost(b, f);
    turns_asked();
    b->attempts++;
    r = borrow_await(b, &stop);
    if (r == -ETIMEDOUT) { /* uninterruptible, in vfork say; it can't be detached now */
        b->stuck[b->stuck_count] = b->t;
        b->stuck[b->stuck_count++].mem_fd = -1;
    }
    if (r == 0 && stop.event == TRACEE_GONE)
        return borrow_lost(b, f);
    if (r < 0)
        return 0;
    if (stop.event == TRACEE_GROUP_STOP) {
        borrow_let_go(b);
        return same ? mp_fail(f, MP_E_STOPPED, 0, "process %d is stopped by a signal", (int)b->plan->facts.pid) : 0;
    }
    int got = tracee_get_regs(&b->t, &b->regs);
    if (got == 0)
        remote_rewind(&b->t, &b->regs);
    if (got == 0 && !same) {
        turns_back();
        remote_decline(&b->t, &b->regs, false);
        return 0;
    }
    if (got == 0) {
        b->last = borrow_judge(b);
        b->last_tid = tid;
        if (b->execed) {
            borrow_let_go(b);
            return borrow_gone(b->plan, f);
        }
        if (b->last.verdict == SAFEPOINT_OK && remote_prepare(&b->remote, &b->t, &b->regs, b->plan->syscall_insn,
                                                              b->plan->restore_rt) == 0) {
            b->remote.caller_retries = b->caller_retries;
            return 1;
        }
        turns_back();
        remote_decline(&b->t, &b->regs, b->caller_retries);
    } else {
        borrow_let_go(b);
    }
    borrow_account(b);
    return 0;
}

/* Tries one thread: 1 it stands at a safe point, 0 another one must be found,
 * negative enum mp_err. */
static int borrow_try(struct borrow *b, pid_t tid, struct mp_failure *f)
{
    int ret = borrow_ask(b, tid, f);
    if (ret != 1)
        turns_apart();
    return ret;
}

static int borrow_read_maps(struct borrow *b, pid_t tid)
{
    struct maps m;
    int r = maps_read(&m, tid);
    if (r < 0)
        return r;
    maps_release(&b->maps);
    b->maps = m;
    return 0;
}

/* One look over the threads. As borrow_try; *ret_seen counts those that could be tried. */
static int borrow_round(struct borrow *b, size_t *ret_seen, struct mp_failure *f)
{
    struct borrow_candidate *c;
    long n = borrow_candidates(b, &c);
    if (n == -ENOMEM)
        return mp_fail(f, MP_E_INTERNAL, ENOMEM, "out of memory");
    if (n < 0)
        return borrow_gone(b->plan, f);
    int r = 0;
    *ret_seen = (size_t)n;
    if (n > 0 && borrow_read_maps(b, c[0].tid) == 0) {
        for (long i = 0; r == 0 && i < n && i < BORROW_TRY; i++) {
            borrow_unstick(b);
            if (!borrow_is_stuck(b, c[i].tid) && b->stuck_count < BORROW_STUCK_MAX)
                r = borrow_try(b, c[i].tid, f);
        }
    }
    free(c);
    return r;
}

/* The module that the last thread looked at was in; "" where it has no name. */
static void borrow_module(const struct borrow *b, char *ret_name, size_t size)
{
    const struct maps_entry *e = maps_at(&b->maps, b->regs.rip);
    *ret_name = '\0';
    if (e)
        utf8_sanitise_into(ret_name, size, maps_basename(e), strlen(maps_basename(e)));
}

/* For -v: the code that the last thread looked at was in. */
static void borrow_show_code(const struct borrow *b)
{
    pid_t tid = b->last_tid;
    struct disasm *d = b->log ? disasm_new(disasm_read_pid, &tid) : NULL;
    char name[128];
    if (!d)
        return;
    borrow_module(b, name, sizeof name);
    fprintf(b->log, "inject: thread %d stood at %#llx%s%s, rax %lld, system call %lld\n", (int)tid, (unsigned long long)b->regs.rip,
            *name ? " in " : "", name, (long long)b->regs.rax, (long long)b->regs.orig_rax);
    disasm_print(d, b->log, disasm_before(d, b->regs.rip, BORROW_CODE_BACK), BORROW_CODE_SHOWN, b->regs.rip);
    disasm_free(d);
}

static void borrow_name(const struct borrow *b, char *ret_name, size_t size)
{
    struct proc_stat st;
    *ret_name = '\0';
    if (proc_stat_read(&st, b->plan->facts.pid, b->last_tid) == 0)
        utf8_sanitise_into(ret_name, size, st.comm, strlen(st.comm));
}

void borrow_explain(const struct borrow *b, char *ret_text, size_t size)
{
    char name[PROC_COMM_MAX * 4], module[128], call[48] = "";
    borrow_name(b, name, sizeof name);
    borrow_module(b, module, sizeof module);
    if ((long long)b->regs.orig_rax >= 0)
        snprintf(call, sizeof call, "system call %lld of ", (long long)b->regs.orig_rax);
    snprintf(ret_text, size, "thread %d (%s), borrowed in %s%s,", (int)b->last_tid, name, call, *module ? module : "code of no file");
    borrow_show_code(b);
}

/* What stood in the way, with the thread's name and the number of its system call. */
static int borrow_no_safe_point(const struct borrow *b, unsigned deadline_ms, struct mp_failure *f)
{
    char what[128], name[PROC_COMM_MAX * 4], call[32] = "";
    borrow_name(b, name, sizeof name);
    safepoint_describe(&b->last, what, sizeof what);
    if (b->last.verdict == SAFEPOINT_CALL)
        snprintf(call, sizeof call, " (number %lld)", (long long)b->regs.orig_rax);
    borrow_show_code(b);
    return mp_fail(f, MP_E_NO_SAFE_POINT, 0, "no safe point in %u ms and %u stops; last seen: thread %d (%s) %s%s", deadline_ms,
                   b->attempts, (int)b->last_tid, name, what, call);
}

static int borrow_failed(const struct borrow *b, size_t seen, unsigned deadline_ms, struct mp_failure *f)
{
    int pid = (int)b->plan->facts.pid;
    struct proc_stat st;
    if (proc_stat_read(&st, b->plan->facts.pid, 0) < 0 || proc_live_task(pid) < 0)
        return borrow_gone(b->plan, f);
    if (st.state == 'T') /* 't' may be our own doing: a thread that stopped at last */
        return mp_fail(f, MP_E_STOPPED, 0, "process %d is stopped by a signal", pid);
    if (seen == 0 || (!b->stuck_count && !b->last_tid))
        return mp_fail(f, MP_E_NO_THREAD, 0, "no thread of process %d could be stopped within %u ms; its first one is in state %c (proc(5))", pid,
                       deadline_ms, st.state);
    if (b->stuck_count || b->last.verdict == SAFEPOINT_OK)
        return mp_fail(f, MP_E_NO_THREAD, 0, "thread %d of process %d did not stop within %u ms",
                       (int)(b->stuck_count ? b->stuck[0].tid : b->last_tid), pid, deadline_ms);
    return borrow_no_safe_point(b, deadline_ms, f);
}

bool borrow_interrupted(const struct borrow *b)
{
    struct pollfd wake = {b->wake_fd, POLLIN, 0}; /* poll(2) passes over a negative one */
    return poll(&wake, 1, 0) > 0;
}

int borrow_thread(struct borrow *b, unsigned deadline_ms, struct mp_failure *f)
{
    uint64_t begin = clock_mono_ns(), deadline = begin + (uint64_t)deadline_ms * 1000000u;
    size_t seen = 0;
    b->room = sigframe_room();
    tracee_init(&b->t, 0);
    do {
        int r = borrow_round(b, &seen, f);
        if (r != 0)
            return r < 0 ? r : 0;
        if (borrow_interrupted(b))
            return mp_fail(f, MP_E_INTERRUPTED, 0, "interrupted after %u stops of a thread of process %d, none at a safe point",
                           b->attempts, (int)b->plan->facts.pid);
        b->any_stack = clock_mono_ns() - begin > BORROW_STACK_NS;
        borrow_sleep(b);
    } while (clock_mono_ns() < deadline);
    return borrow_failed(b, seen, deadline_ms, f);
}

int borrow_one(struct borrow *b, pid_t tid, unsigned deadline_ms, bool stale, struct mp_failure *f)
{
    uint64_t deadline = clock_mono_ns() + (uint64_t)deadline_ms * 1000000u;
    b->room = sigframe_room();
    tracee_init(&b->t, 0);
    do {
        int r = 0;
        int rank = borrow_look(b->plan->facts.pid, tid);
        b->any_stack = stale && (rank == SAFEPOINT_PARKED || rank == SAFEPOINT_EINTR);
        if (b->stuck_count == 0 && rank != SAFEPOINT_NEVER && borrow_read_maps(b, tid) == 0)
            r = borrow_try(b, tid, f);
        if (r != 0)
            return r < 0 ? r : 0;
        borrow_sleep(b);
    } while (clock_mono_ns() < deadline);
    return borrow_failed(b, 1, deadline_ms, f);
}

int borrow_return(struct borrow *b)
{
    turns_back();
    int r = remote_end(&b->remote);
    borrow_account(b);
    turns_apart();
    borrow_unstick(b);
    return r;
}

int borrow_finish(struct borrow *b, struct mp_failure *f)
{
    int ret = borrow_return(b);
    b->hold_ns = 0;
    if (ret == -ESRCH || b->remote.vanished)
        return borrow_gone(b->plan, f);
    if (ret == 0)
        return 0;
    ret = mp_fail(f, MP_E_INJECT, -ret, "thread %d could not be released: %s", (int)b->t.tid, strerror(-ret));
    if (f)
        f->changed_target = true;
    return ret;
}

void borrow_release(struct borrow *b)
{
    tracee_release(&b->t);
    maps_release(&b->maps);
}
