/* Carrying out the plan: the life of one injection, step 4 and 5 of
 * docs/ARCHITECTURE.md.
 *
 *   region_prepare        nothing touched yet
 *   borrow_thread         a thread stands at a safe point     --+
 *   remote mmap           the region                            | the pause
 *   region_write          loader, boot block, raw TLS           |
 *   remote clone          the raw thread                        |
 *   borrow_return                                             --+
 *   raw_attend            descriptors, the agent's image
 *   run_await_progress    the borrowed thread is in no malloc without locks
 *   'G'                   go */
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <linux/prctl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fault.h"
#include "inject/borrow.h"
#include "inject/ours.h"
#include "inject/plan.h"
#include "inject/progress.h"
#include "inject/raw.h"
#include "inject/region.h"
#include "inject/room.h"
#include "target/proc.h"
#include "target/seccomp.h"
#include "target/undo.h"

#define RUN_CALL_NS 1000000000ull /* for one remote call */
#define RUN_HOLD_NS 50000000ull   /* for the loader's first steps, while the thread stands for them */
#define RUN_LEAVE_MS 1000         /* for the loader to leave after a failure */
#define RUN_PROGRESS_MS 4000      /* for the borrowed thread to get on, before 'G'; of --timeout, */
#define RUN_PROGRESS_LEAST_MS 200 /* but so much at least */
#define RUN_PROGRESS_STEP_NS 200000
_Static_assert(RUN_PROGRESS_MS < MP_GO_WAIT_MS, "the loader waits for longer");

/* CLONE_VM | FS | FILES | SIGHAND | THREAD | SYSVSEM | SETTLS: as pthread_create,
 * without the words that only libc knows of. */
#define RUN_CLONE_FLAGS (0x100 | 0x200 | 0x400 | 0x800 | 0x10000 | 0x40000 | 0x80000)

struct run {
    struct inject_plan *plan;
    unsigned deadline_ms;
    FILE *log;
    struct mp_failure *f;
    int ret;
    uint64_t start_ns;
    struct borrow borrow;
    struct region region;
    struct undo undo;
    int place_flag; /* of mmap, for an address that is to be kept to */
    raddr_t base;   /* of the region; 0: not mapped */
    raddr_t flag_at; /* of the borrowed thread's multiple_threads; 0: not changed */
    pid_t raw_tid;
    struct channel channel;
};

/* --- changes, and their way back ------------------------------------------------- */

static int run_undo_return(void *arg)
{
    struct run *r = arg;
    int ret = borrow_return(&r->borrow);
    return ret == -ESRCH ? 0 : ret;
}

static int run_undo_unmap(void *arg)
{
    struct run *r = arg;
    const uint64_t a[6] = {r->base, MP_REGION_SIZE};
    long value = 0;
    if (r->borrow.remote.unsettled || r->borrow.remote.in_call) /* an mmap or clone of ours may be under way */
        return -ETIMEDOUT;
    if (!r->base)
        return 0;
    int ret = remote_call(&r->borrow.remote, SYS_munmap, a, clock_mono_ns() + RUN_CALL_NS, &value);
    return ret == -ESRCH ? 0 : ret < 0 ? ret : (int)value;
}

static int run_undo_flag(void *arg)
{
    struct run *r = arg;
    const uint32_t zero = 0;
    return r->flag_at ? tracee_write(&r->borrow.t, r->flag_at, &zero, sizeof zero) : 0;
}

/* MAP_FIXED_NOREPLACE is known from 4.17 on, but before 4.19 what begins in the midst of the place
 * goes (mm/mmap.c, do_mmap): an address is a wish there. */
static int run_place_flag(void)
{
    return proc_kernel_from(4, 19) ? MAP_FIXED_NOREPLACE : 0;
}

/* Has the region mapped at a place, 0: the kernel's choice. -EEXIST: something is there by
 * now. Before Linux 4.19 it then lies elsewhere. */
static int run_map_at(struct run *r, raddr_t place)
{
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS | (place ? r->place_flag : 0);
    const uint64_t a[6] = {place, MP_REGION_SIZE, PROT_READ | PROT_EXEC, (uint64_t)flags, (uint64_t)-1, 0};
    long value = 0;
    int ret = remote_call(&r->borrow.remote, SYS_mmap, a, clock_mono_ns() + RUN_CALL_NS, &value);
    if (ret < 0)
        return ret;
    if (value < 0 && value > -4096)
        return (int)value;
    r->base = (raddr_t)value;
    return 0;
}

static int run_map(struct run *r)
{
    int ret = -EEXIST;
    undo_push(&r->undo, "the boot region", run_undo_unmap, r);
    for (unsigned i = 0; i < PLAN_PLACES && ret == -EEXIST && r->plan->place[i]; i++)
        ret = run_map_at(r, r->plan->place[i]);
    if (ret == -EEXIST)
        ret = run_map_at(r, 0);
    if (ret < 0)
        return ret;
    /* Should we die before the clone, the thread takes the region away itself. */
    const uint64_t u[6] = {r->base, MP_REGION_SIZE};
    return remote_arm(&r->borrow.remote, SYS_munmap, u);
}

/* In a process with one thread glibc takes no locks. From 2.36 on the loader sees to it
 * (note_threads). Up to 2.35 each thread looks into its own TCB to know, and pthread_create on the
 * raw thread tells only that one; so we write what pthread_create on the borrowed thread, which
 * is the only one that libc knows, would write. It stays, as it would. */
static int run_flag_threads(struct run *r)
{
    uint32_t flag, one = 1;
    raddr_t at = r->borrow.regs.fs_base + PLAN_TCB_MULTIPLE_THREADS;
    if (r->plan->facts.glibc_minor >= PLAN_GLIBC_NOTES)
        return 0;
    int ret = tracee_read(&r->borrow.t, at, &flag, sizeof flag);
    if (ret < 0 || flag != 0)
        return ret;
    undo_push(&r->undo, "libc's note of having threads", run_undo_flag, r);
    r->flag_at = at;
    return tracee_write(&r->borrow.t, at, &one, sizeof one);
}

static int run_clone(struct run *r)
{
    const uint64_t a[6] = {RUN_CLONE_FLAGS, r->base + r->region.sp_off, 0, 0, r->base + r->region.tcb_off, 0};
    long value = 0;
    int ret = remote_clone(&r->borrow.remote, a, r->plan->suspend_seccomp, clock_mono_ns() + RUN_CALL_NS, &value,
                           &r->raw_tid);
    if (r->raw_tid <= 0 && value > 0 && ret == 0) /* its parent's stop did not tell */
        ret = proc_task_of_ns(r->plan->facts.pid, (pid_t)value, &r->raw_tid);
    if (r->raw_tid > 0)
        return 0; /* it lives, and the region is its own now */
    if (value > 0) { /* it lives, and can't be found: its memory stays */
        r->base = 0;
        if (r->f)
            r->f->changed_target = true;
    }
    return ret < 0 ? ret : value < 0 ? (int)value : -EPROTO;
}

/* --- seccomp ------------------------------------------------------------------------ *
 * The filter is suspended on threads that we trace; worker and agent run under it.
 * A filter may kill, so what they need is looked up in it, with the arguments that are
 * always the same. An errno is enough where there is another way (clone3, rseq, a thunk's
 * mprotect, without which the agent leaves), little is lost, or the filter is suspended. */

#define NEEDED(call) {.nr = SYS_##call, .name = #call}
#define WANTED(call) {.nr = SYS_##call, .name = #call, .optional = true}
#define ARG(n) (1u << (n))
#define NEEDED_AS(call, as, mask, ...) {.nr = SYS_##call, .name = #call " (" as ")", .known = mask, .args = {__VA_ARGS__}}
#define WANTED_AS(call, as, mask, ...) \
    {.nr = SYS_##call, .name = #call " (" as ")", .optional = true, .known = mask, .args = {__VA_ARGS__}}
#define RUN_REAPER_FLAGS 0x50f00   /* of the loader's last thread (payload/loader/loader.c) */
#define RUN_SIGSETXID 33           /* for which the first pthread_create of a process sets the handler, */
#define RUN_SIGSETXID_GLIBC 34     /* from 2.34 on: before that it was done at the start */
#define RUN_PTHREAD_FLAGS 0x3d0f00 /* of glibc's clone where there is no clone3 */

static const struct seccomp_call run_calls[] = {
    NEEDED(read),     NEEDED(write),   NEEDED(close),  NEEDED(pread64), NEEDED(sendto),        NEEDED(recvfrom),
    NEEDED(poll),     NEEDED(openat),  NEEDED(munmap), NEEDED(exit),    NEEDED(rt_sigprocmask), NEEDED(clock_gettime),
    NEEDED(gettid),   NEEDED(getpid),  NEEDED(tgkill), NEEDED(rt_sigreturn),
    NEEDED_AS(mmap, "no access", ARG(2), [2] = PROT_NONE),
    NEEDED_AS(mmap, "PROT_READ", ARG(2), [2] = PROT_READ),
    NEEDED_AS(mmap, "PROT_READ|PROT_WRITE", ARG(2), [2] = PROT_READ | PROT_WRITE),
    NEEDED_AS(mmap, "PROT_READ|PROT_EXEC", ARG(2), [2] = PROT_READ | PROT_EXEC),
    NEEDED_AS(mprotect, "PROT_READ", ARG(2), [2] = PROT_READ),
    NEEDED_AS(mprotect, "PROT_READ|PROT_WRITE", ARG(2), [2] = PROT_READ | PROT_WRITE),
    WANTED_AS(mprotect, "PROT_READ|PROT_EXEC", ARG(2), [2] = PROT_READ | PROT_EXEC),
    NEEDED_AS(clone, "a thread", ARG(0), [0] = RUN_CLONE_FLAGS),
    NEEDED_AS(clone, "a thread", ARG(0), [0] = RUN_REAPER_FLAGS),
    WANTED_AS(clone, "a pthread", ARG(0), [0] = RUN_PTHREAD_FLAGS), /* after clone3's errno */
    NEEDED_AS(futex, "FUTEX_WAIT", ARG(1), [1] = FUTEX_WAIT),
    NEEDED_AS(futex, "FUTEX_WAKE", ARG(1), [1] = FUTEX_WAKE),
    NEEDED_AS(futex, "FUTEX_WAIT_PRIVATE", ARG(1), [1] = FUTEX_WAIT_PRIVATE),
    NEEDED_AS(futex, "FUTEX_WAKE_PRIVATE", ARG(1), [1] = FUTEX_WAKE_PRIVATE),
    NEEDED_AS(futex, "FUTEX_WAIT_BITSET_PRIVATE", ARG(1), [1] = FUTEX_WAIT_BITSET_PRIVATE),
    NEEDED_AS(futex, "FUTEX_WAIT_BITSET_PRIVATE|FUTEX_CLOCK_REALTIME", ARG(1), [1] = FUTEX_WAIT_BITSET_PRIVATE | FUTEX_CLOCK_REALTIME),
    WANTED_AS(madvise, "MADV_DONTNEED", ARG(2), [2] = MADV_DONTNEED),
    WANTED_AS(madvise, "MADV_DONTFORK", ARG(2), [2] = MADV_DONTFORK),
    WANTED_AS(madvise, "MADV_WIPEONFORK", ARG(2), [2] = MADV_WIPEONFORK),
    WANTED_AS(madvise, "MADV_NOHUGEPAGE", ARG(2), [2] = MADV_NOHUGEPAGE),
    WANTED_AS(prctl, "PR_SET_VMA", ARG(0) | ARG(1), [0] = PR_SET_VMA, [1] = PR_SET_VMA_ANON_NAME),
    NEEDED_AS(fcntl, "F_DUPFD_CLOEXEC", ARG(1), [1] = F_DUPFD_CLOEXEC),
    WANTED_AS(getrusage, "RUSAGE_THREAD", ARG(0), [0] = RUSAGE_THREAD),
    WANTED(shutdown), WANTED(clone3), WANTED(rseq), WANTED(set_robust_list), WANTED(newfstatat),
    WANTED(fstat),    WANTED(sendmsg), WANTED(ppoll),  WANTED(brk),  WANTED(pipe2),           WANTED(prlimit64),
    WANTED(process_vm_readv), WANTED(sched_yield), WANTED(sched_getaffinity),
    /* Made while the filter is suspended. When we die in between it is back: an errno then ends
     * the injection, but a filter that kills would take the target. */
    WANTED(memfd_create), WANTED_AS(socketpair, "AF_UNIX", ARG(0), [0] = AF_UNIX),
};

/* In a process that libc thinks has one thread. */
static const struct seccomp_call run_first_calls[] = {
    WANTED_AS(rt_sigaction, "SIGSETXID", ARG(0), [0] = RUN_SIGSETXID),
};

static bool run_is_first(const struct inject_plan *p, pid_t tid)
{
    unsigned minor = p->facts.glibc_minor;
    return minor >= PLAN_GLIBC_NOTES ? p->boot.note_threads : minor >= RUN_SIGSETXID_GLIBC && plan_single_threaded(p, tid);
}

static int run_check_seccomp(struct run *r)
{
    const char *name = NULL;
    if (!r->plan->suspend_seccomp)
        return 0;
    int ret = seccomp_check(&r->borrow.t, run_calls, sizeof run_calls / sizeof *run_calls, &name);
    if (ret == 0 && run_is_first(r->plan, r->borrow.t.tid))
        ret = seccomp_check(&r->borrow.t, run_first_calls, sizeof run_first_calls / sizeof *run_first_calls, &name);
    if (ret == 0)
        return 0;
    borrow_return(&r->borrow);
    if (ret == 1) {
        ret = mp_fail(r->f, MP_E_SECCOMP, 0, "the seccomp filter of process %d may not allow %s, which the agent needs",
                      (int)r->plan->facts.pid, name);
        mp_fail_hint(r->f, "allow it in the program's filter (under systemd: SystemCallFilter and its like)");
        return ret;
    }
    return mp_fail(r->f, MP_E_SECCOMP, -ret, "process %d has a seccomp filter that can't be read", (int)r->plan->facts.pid);
}

/* --- the pause ---------------------------------------------------------------------- */

static int run_undo(struct run *r, int err, const char *step)
{
    const char *left = NULL;
    bool gone = err == -ESRCH || r->borrow.remote.vanished;
    int bad = undo_run(&r->undo, &left);
    (void)FAULT_POINT("undone", 0);
    /* Killed in the midst of a call: its answer was no error's. Or it ended by itself, once it was let go. */
    bool ended = borrow_has_ended(&r->borrow);
    if (gone || ((ended || err == -EAGAIN) && borrow_changes(r->plan))) /* clone(2) says that beside an exec (kernel/fork.c, copy_fs) */
        return borrow_gone(r->plan, r->f);
    if (bad == 0 && room_explain(step, r->plan->facts.pid, -err, r->f) < 0)
        return -(int)MP_E_LIMIT;
    if (bad == 0 && ended)
        return borrow_gone(r->plan, r->f);
    if (bad == 0)
        return mp_fail(r->f, MP_E_INJECT, -err, "%s failed: %s; rolled back", step, strerror(-err));
    int ret = mp_fail(r->f, MP_E_INJECT, -err, "%s failed: %s; %s could not be taken back: %s", step, strerror(-err),
                      left, strerror(-bad));
    if (r->f)
        r->f->changed_target = true;
    return ret;
}

static int run_in_thread(struct run *r)
{
    const char *step = "writing a signal frame";
    undo_push(&r->undo, "the borrowed thread's registers", run_undo_return, r);
    int ret = remote_begin(&r->borrow.remote);
    if (ret == 0) {
        step = "mmap";
        ret = run_map(r);
    }
    if (ret == 0) {
        step = "writing the boot region";
        ret = region_write(&r->region, &r->borrow.t, r->base, r->borrow.regs.fs_base);
    }
    if (ret == 0)
        ret = run_flag_threads(r);
    if (ret == 0) {
        step = "clone";
        ret = run_clone(r);
    }
    if (ret < 0)
        return run_undo(r, ret, step);
    undo_clear(&r->undo);
    if (r->plan->boot.note_threads && r->plan->single_arena) {
        r->borrow.hold_ns = clock_mono_ns() + RUN_HOLD_NS;
        return 0;
    }
    return borrow_finish(&r->borrow, r->f);
}

/* --- all steps ------------------------------------------------------------------------ */

static void run_log_pause(const struct run *r)
{
    const struct borrow *b = &r->borrow;
    if (r->log)
        fprintf(r->log, "inject: thread %d borrowed at %#llx, paused %llu us, %u stop%s; region %#llx, raw thread %d\n",
                (int)b->t.tid, (unsigned long long)b->regs.rip, (unsigned long long)b->pause_ns / 1000, b->attempts,
                b->attempts == 1 ? "" : "s", (unsigned long long)r->base, (int)r->raw_tid);
}

/* Whether the loader's pages are there still. */
static bool run_is_mapped(const struct run *r)
{
    pid_t pid = r->plan->facts.pid, live = proc_live_task(pid);
    bool is = live > 0 && ours_is_region(live, r->base);
    for (int i = 1; i < PROC_LOOKS && live > 0 && !is && proc_task_lost(pid, live); i++) {
        live = proc_live_task(pid);
        is = live > 0 && ours_is_region(live, r->base);
    }
    return is;
}

/* After a failure the loader leaves by itself; that is waited for, so that "rolled
 * back" is true when it is said. */
static void run_await_leave(struct run *r)
{
    char path[64];
    uint64_t deadline = clock_mono_ns() + RUN_LEAVE_MS * 1000000ull;
    struct timespec ms = {0, 1000000};
    snprintf(path, sizeof path, "/proc/%d/task/%d", (int)r->plan->facts.pid, (int)r->raw_tid);
    while (access(path, F_OK) == 0) {
        if (clock_mono_ns() >= deadline) {
            if (r->f)
                r->f->changed_target = true;
            return;
        }
        nanosleep(&ms, NULL);
        borrow_unstick(&r->borrow);
    }
    if (r->f && run_is_mapped(r)) /* the target has ended it */
        r->f->changed_target = true;
}

static int run_fail_progress(const struct run *r, uint64_t waited_ns)
{
    char thread[BORROW_EXPLAIN];
    borrow_explain(&r->borrow, thread, sizeof thread);
    return mp_fail(r->f, MP_E_NO_SAFE_POINT, 0, "%s hardly got to run for %llu ms: it may be in the midst of a malloc without locks",
                   thread, (unsigned long long)waited_ns / 1000000);
}

/* Until libc took note of threads the borrowed one, let go, may have begun a malloc without
 * locks. Preempted in it, it would come back to an arena that the agent has had, which takes
 * locks. So it is to get out of there before the loader loads anything; mostly it has, or
 * sleeps. Where all threads have the same arena it stood still until then instead. */
static int run_await_progress(struct run *r)
{
    const struct timespec step = {0, RUN_PROGRESS_STEP_NS};
    uint64_t now = clock_mono_ns(), end = r->start_ns + r->deadline_ms * 1000000ull;
    struct progress p;
    if (!r->plan->boot.note_threads || r->plan->single_arena)
        return 0;
    end = end < now + RUN_PROGRESS_LEAST_MS * 1000000ull ? now + RUN_PROGRESS_LEAST_MS * 1000000ull : end;
    end = end > now + RUN_PROGRESS_MS * 1000000ull ? now + RUN_PROGRESS_MS * 1000000ull : end;
    progress_begin(&p, r->plan->facts.pid, r->borrow.t.tid);
    while (!progress_made(&p)) {
        if (borrow_interrupted(&r->borrow))
            return mp_fail(r->f, MP_E_INTERRUPTED, 0, "interrupted while thread %d hardly got to run", (int)r->borrow.t.tid);
        if (clock_mono_ns() >= end)
            return run_fail_progress(r, end - now);
        nanosleep(&step, NULL);
        borrow_unstick(&r->borrow);
    }
    return 0;
}

/* Until libc knows of a thread of ours, none changes its user when the program does, and the
 * agent's would begin as the old one: at the next setuid(2) whose result is not the same for all
 * threads libc ends the process (nptl/nptl_setxid.c). */
static int run_check_user(struct run *r)
{
    struct proc_status theirs, ours;
    pid_t pid = r->plan->facts.pid;
    if (proc_status_read(&theirs, pid, r->borrow.t.tid) < 0 || proc_status_read(&ours, pid, r->raw_tid) < 0)
        return 0; /* one of them has ended */
    if (memcmp(theirs.uid, ours.uid, sizeof ours.uid) == 0 && memcmp(theirs.gid, ours.gid, sizeof ours.gid) == 0 &&
        theirs.cap_permitted == ours.cap_permitted && theirs.cap_effective == ours.cap_effective)
        return 0;
    return mp_fail(r->f, MP_E_NO_THREAD, 0, "process %d changed its user in the middle of the injection", (int)pid);
}

/* The loader can't be told to go on, and leaves. */
static int run_no_go(struct run *r, int err)
{
    struct proc_stat st;
    int pid = (int)r->plan->facts.pid;
    bool waits = proc_task_lives(pid, r->raw_tid, &st);
    channel_close(&r->channel);
    run_await_leave(r);
    if (err != -EPIPE)
        return mp_fail(r->f, MP_E_INJECT, -err, "can't tell the loader to go on");
    if (waits && !borrow_changes(r->plan))
        return mp_fail(r->f, MP_E_FDS_CLOSED, 0, "process %d closed or replaced the session's descriptors", pid);
    return borrow_gone(r->plan, r->f);
}

static int run_all(struct run *r)
{
    int ret = region_prepare(&r->region, r->plan, r->f);
    if (ret == 0)
        ret = borrow_thread(&r->borrow, r->deadline_ms, r->f);
    if (ret == 0)
        ret = run_check_seccomp(r);
    if (ret == 0)
        ret = run_in_thread(r);
    if (ret == 0) {
        ret = raw_attend(&r->borrow, r->raw_tid, r->base, &r->channel, r->f);
        if (ret == 0) {
            run_log_pause(r);
            ret = run_await_progress(r);
        }
        if (ret == 0)
            ret = run_check_user(r);
        if (ret < 0) {
            channel_close(&r->channel);
            run_await_leave(r);
        }
    }
    int gone = FAULT_POINT("go", 0) ? -EPIPE : 0;
    if (ret == 0 && gone == 0)
        gone = channel_go(&r->channel);
    return ret == 0 && gone < 0 ? run_no_go(r, gone) : ret;
}

static void run_job(void *arg)
{
    struct run *r = arg;
    r->ret = run_all(r);
}

int inject_run(struct inject_plan *p, unsigned deadline_ms, int wake_fd, FILE *log, struct inject_result *ret_result,
               struct mp_failure *f)
{
    struct run r = {.plan = p, .deadline_ms = deadline_ms, .log = log, .f = f, .channel = {-1, -1}, .start_ns = clock_mono_ns(),
                    .place_flag = run_place_flag()};
    r.borrow.plan = p;
    r.borrow.log = log;
    r.borrow.wake_fd = wake_fd;
    tracee_init(&r.borrow.t, 0);
    int e = borrow_run(run_job, &r), ret = r.ret;
    if (e != 0)
        ret = mp_fail(f, MP_E_INTERNAL, e, "can't start a thread");
    uint64_t end = clock_mono_ns();
    region_release(&r.region);
    borrow_release(&r.borrow);
    if (ret < 0)
        return ret;
    *ret_result = (struct inject_result){
        .fd = r.channel.in,
        .out = r.channel.out,
        .pause_ns = r.borrow.pause_ns,
        .attach_ns = r.borrow.attach_ns,
        .total_ns = end - r.start_ns,
        .attempts = r.borrow.attempts,
        .pause_ns_sum = r.borrow.pause_ns_sum,
        .thread = r.borrow.t.tid,
        .region_base = r.base,
    };
    return 0;
}
