/* Attending to the raw thread. See raw.h. None of this is a pause, for the thread is ours and
 * the target's own threads run; but for its first steps where the borrowed thread is held for
 * them. */
#include "inject/raw.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fault.h"
#include "inject/borrow.h"
#include "inject/room.h"
#include "target/mem.h"
#include "target/proc.h"

#define RAW_STOP_NS 2000000000ull /* from one of its stops to the next */
#define RAW_UNSTICK_NS 50000      /* between two looks at threads that have yet to stop */
#define RAW_STOPS_MAX 4096        /* a few dozen are its own; the target can change the loader's code, and send signals */
#define RAW_AFFINITY_THREADS 64   /* threads whose CPUs are joined */

struct raw {
    const struct inject_plan *plan;
    FILE *log;
    struct tracee t;
    struct borrow *borrow; /* of the thread that made this one */
    struct mp_boot boot; /* as read at the rendezvous */
    struct channel channel;
};

static struct user_regs_struct raw_exit_regs(const struct raw *r, const struct user_regs_struct *from)
{
    struct user_regs_struct regs = *from;
    regs.rip = r->plan->syscall_insn;
    regs.rax = SYS_exit;
    regs.orig_rax = (uint64_t)-1;
    regs.rdi = 0;
    return regs;
}

/* A signal for the raw thread: only what can't be blocked comes. A fault would end
 * the whole target; the thread ends alone instead. */
static int raw_signal(struct raw *r, int sig)
{
    struct user_regs_struct regs;
    if (sig == SIGSTOP)
        return tracee_cont_syscall(&r->t, sig);
    if (r->log)
        fprintf(r->log, "inject: signal %d in the raw thread; it is ended\n", sig);
    int ret = tracee_get_regs(&r->t, &regs);
    if (ret == 0) {
        regs = raw_exit_regs(r, &regs);
        ret = tracee_set_regs(&r->t, &regs);
    }
    return ret < 0 ? ret : tracee_cont(&r->t, 0);
}

/* Whether it is in the getpid that has this argument. */
static bool raw_is_at(struct raw *r, uint64_t arg)
{
    struct user_regs_struct regs;
    return tracee_get_regs(&r->t, &regs) == 0 && regs.orig_rax == SYS_getpid && regs.rdi == arg;
}

static int raw_fail_hold(struct raw *r, struct mp_failure *f)
{
    char thread[BORROW_EXPLAIN];
    uint64_t held = clock_mono_ns() - r->borrow->stop_ns;
    int ret = borrow_finish(r->borrow, f); /* it goes on before it is told of */
    if (ret < 0)
        return ret;
    borrow_explain(r->borrow, thread, sizeof thread);
    return mp_fail(f, MP_E_NO_SAFE_POINT, 0, "%s could not be held for as long as the loader's needed: %llu ms, without an end "
                   "(malloc without locks: MALLOC_ARENA_MAX=1)", thread, (unsigned long long)held / 1000000);
}

/* Threads of the target that were asked to stop and do so only now must not wait for ours. */
static int raw_next(struct raw *r, struct tracee_stop *ret_stop, struct mp_failure *f)
{
    uint64_t end = clock_mono_ns() + RAW_STOP_NS;
    int ret;
    if (r->borrow->hold_ns)
        end = r->borrow->hold_ns;
    do {
        uint64_t step = r->borrow->stuck_count ? clock_mono_ns() + RAW_UNSTICK_NS : end;
        ret = tracee_wait(&r->t, step < end ? step : end, ret_stop);
        borrow_unstick(r->borrow);
    } while (ret == -ETIMEDOUT && clock_mono_ns() < end);
    if (ret == -ETIMEDOUT && r->borrow->hold_ns)
        return raw_fail_hold(r, f);
    if (ret < 0)
        return mp_fail(f, MP_E_INJECT, -ret, "the loader's thread %d does not move", (int)r->t.tid);
    if (ret_stop->event != TRACEE_GONE)
        return 0;
    ret = r->borrow->hold_ns ? borrow_finish(r->borrow, f) : 0; /* why it went is looked for at leisure */
    return ret < 0 ? ret : borrow_gone(r->plan, f);
}

/* A borrowed thread may be pinned, or have a real-time policy, and the raw thread
 * has it from there. The agent must not compete with it: it may run wherever any
 * thread of the target may, as an ordinary thread. Best effort. */
static void raw_unpin(const struct raw *r)
{
    cpu_set_t all, one;
    pid_t *tids;
    size_t n;
    struct sched_param none = {0};
    int policy = sched_getscheduler(r->t.tid);
    if (policy == SCHED_FIFO || policy == SCHED_RR || policy == 6 /* SCHED_DEADLINE */)
        (void)!sched_setscheduler(r->t.tid, SCHED_OTHER, &none);
    if (proc_tasks(r->plan->facts.pid, &tids, &n) < 0)
        return;
    CPU_ZERO(&all);
    for (size_t i = 0; i < n && i < RAW_AFFINITY_THREADS; i++)
        if (sched_getaffinity(tids[i], sizeof one, &one) == 0)
            CPU_OR(&all, &all, &one);
    free(tids);
    if (sched_getaffinity(r->t.tid, sizeof one, &one) == 0 && !CPU_EQUAL(&all, &one))
        (void)!sched_setaffinity(r->t.tid, sizeof all, &all);
}

/* Lets the loader run up to the rendezvous and leaves it there. */
static int raw_to_rendezvous(struct raw *r, struct mp_failure *f)
{
    struct tracee_stop stop;
    int ret = raw_next(r, &stop, f); /* its first stop: every new tracee has one */
    if (ret < 0)
        return ret;
    if (!r->borrow->hold_ns)
        raw_unpin(r);
    for (int stops = 0; stops < RAW_STOPS_MAX; stops++) {
        int c = stop.event == TRACEE_SIGNAL ? raw_signal(r, stop.sig) : tracee_cont_syscall(&r->t, 0);
        if (c < 0 && c != -ESRCH)
            return mp_fail(f, MP_E_INJECT, -c, "can't resume the loader's thread");
        ret = raw_next(r, &stop, f);
        if (ret < 0)
            return ret;
        if (stop.event == TRACEE_SYSCALL && r->borrow->hold_ns && raw_is_at(r, MP_NOTED_ARG)) {
            ret = borrow_finish(r->borrow, f);
            if (ret < 0)
                return ret;
            raw_unpin(r);
        }
        if (stop.event == TRACEE_SYSCALL && raw_is_at(r, MP_RENDEZVOUS_ARG))
            return 0;
    }
    return mp_fail(f, MP_E_INJECT, 0, "the loader's thread %d does not come to where it is waited for", (int)r->t.tid);
}

static int raw_write_image(int memfd)
{
    const unsigned char *at = inject_agent_image;
    int fault = FAULT_POINT("image", 0);
    if (fault)
        return fault;
    while (at < inject_agent_image_end) {
        ssize_t n = write(memfd, at, (size_t)(inject_agent_image_end - at));
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? -errno : -EIO;
        at += n;
    }
    return 0;
}

static int raw_fill_memfd(struct raw *r, struct mp_failure *f)
{
    int fd = channel_memfd(r->t.tid, r->plan->facts.pidfd, &r->boot);
    if (fd < 0)
        return mp_fail(f, MP_E_INJECT, -fd, "can't open the target's memfd: %s", strerror(-fd));
    int ret = raw_write_image(fd);
    close(fd);
    return ret < 0 ? mp_fail(f, MP_E_INJECT, -ret, "can't write the agent into the target's memfd") : 0;
}

static int raw_failed(const struct raw *r, struct mp_failure *f)
{
    int ret = room_explain(r->boot.error_text, r->plan->facts.pid, r->boot.error, f);
    return ret < 0 ? ret : mp_fail(f, MP_E_INJECT, r->boot.error, "%s failed in the target: %s", r->boot.error_text,
                                   strerror(r->boot.error));
}

/* At the rendezvous: what has the loader done, and what it needs of us. */
static int raw_serve(struct raw *r, raddr_t region_base, struct mp_failure *f)
{
    int ret = mem_read(r->t.tid, region_base + MP_BOOT_OFF, &r->boot, sizeof r->boot);
    if (ret < 0)
        return mp_fail(f, MP_E_INJECT, -ret, "can't read the boot block");
    r->boot.error_text[sizeof r->boot.error_text - 1] = 0;
    if (r->boot.magic != MP_BOOT_MAGIC || (r->boot.phase != MP_PHASE_FDS && r->boot.phase != MP_PHASE_FAILED))
        return mp_fail(f, MP_E_INJECT, 0, "the boot block is not as the loader leaves it (phase %u)", r->boot.phase);
    if (r->boot.phase == MP_PHASE_FAILED)
        return raw_failed(r, f);
    r->boot.channel = r->plan->boot.channel; /* what we asked for, whatever stands there */
    ret = channel_take(&r->channel, r->t.tid, r->plan->facts.pidfd, &r->boot);
    if (ret < 0)
        return mp_fail(f, MP_E_INJECT, -ret, "can't take %s: %s",
                       r->boot.channel == MP_CHANNEL_PIPES ? "an end of the target's pipes (/proc/PID/fd)"
                                                           : "the socket out of the target (pidfd_getfd)", strerror(-ret));
    return raw_fill_memfd(r, f);
}

/* Lets go in any state. A thread that can't be stopped now goes free with the end
 * of the tracing thread. */
static void raw_detach(struct raw *r)
{
    struct tracee_stop stop = {.event = TRACEE_TRAP};
    if (!r->t.seized)
        return;
    if (!r->t.stopped &&
        (tracee_interrupt(&r->t) < 0 || tracee_wait(&r->t, clock_mono_ns() + RAW_STOP_NS, &stop) < 0))
        return;
    if (r->t.stopped)
        tracee_detach(&r->t, stop.event == TRACEE_SIGNAL ? stop.sig : 0);
}

int raw_attend(struct borrow *b, pid_t tid, raddr_t region_base, struct channel *ret_channel, struct mp_failure *f)
{
    struct raw r = {.plan = b->plan, .log = b->log, .borrow = b, .channel = {-1, -1}};
    tracee_init(&r.t, tid);
    r.t.seized = true;
    int ret = raw_to_rendezvous(&r, f);
    int back = b->hold_ns ? borrow_finish(b, f) : 0; /* the loader came nowhere */
    ret = back < 0 ? back : ret;
    if (ret == 0)
        ret = raw_serve(&r, region_base, f);
    raw_detach(&r);
    if (ret < 0) {
        channel_close(&r.channel); /* the loader sees its end close, and leaves */
        return ret;
    }
    *ret_channel = r.channel;
    return 0;
}
