/* Holding the one thread that runs Python, while the agent has CPython 3.6 make its GIL
 * (enum mp_standstill in control.h; inject.h). The second stop of such a target. */
#include <linux/futex.h>
#include <stddef.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>

#include "base/clock.h"
#include "base/fault.h"
#include "inject/borrow.h"
#include "inject/inject.h"
#include "inject/ours.h"
#include "inject/turns.h"
#include "target/mem.h"
#include "target/proc.h"

#define STANDSTILL_FIND_NS 100000000ull /* for one look after a place where it may stand */
#define STANDSTILL_STALE_NS 250000000ull
#define STANDSTILL_COMING_NS 2000000  /* the agent looks once a millisecond, from then on always */
#define STANDSTILL_STEP_NS 20000      /* asleep between two looks: the agent may need this very CPU */
#define STANDSTILL_NICE (-20)
#define STANDSTILL_HOLD_NS 5000000ull   /* an agent that doesn't get a CPU is not waited for longer */
#define STANDSTILL_BUSY_NS 50000000ull  /* one that has begun is */
#define STANDSTILL_DEAD_NS 100000000ull /* stands so long when we die */

struct standstill {
    struct inject_plan plan; /* with the code of the GIL's making among what a thread must not be in */
    raddr_t control;
    int32_t agent_tid;
    uint64_t asked_ns;
    uint64_t pause_ns;
    unsigned stops;
    FILE *log;
};

static int put(const struct standstill *s, pid_t live, size_t field, const void *value, size_t size)
{
    return mem_write(live, s->control + field, value, size);
}

static int say(const struct standstill *s, pid_t live, uint32_t word)
{
    return put(s, live, offsetof(struct mp_control, standstill), &word, sizeof(word));
}

static uint32_t look(const struct standstill *s, pid_t live, size_t field)
{
    uint32_t word;

    return mem_read(live, s->control + field, &word, sizeof(word)) == 0 ? word : 0;
}

static void nap(long ns)
{
    struct timespec ts = {0, ns};

    nanosleep(&ts, NULL);
}

/* Waits for the agent; takes the word back if it does not begin, for what stands must go on. */
static void hold(const struct standstill *s, pid_t tid, uint32_t word)
{
    uint64_t end = clock_mono_ns() + STANDSTILL_HOLD_NS;

    if (say(s, tid, word) < 0)
        return;
    (void)FAULT_POINT("standstill", 1);
    while (look(s, tid, offsetof(struct mp_control, standstill)) == word && clock_mono_ns() < end)
        nap(STANDSTILL_STEP_NS);
    if (look(s, tid, offsetof(struct mp_control, standstill)) == word)
        (void)say(s, tid, MP_STANDSTILL_ASKED);
    end = clock_mono_ns() + STANDSTILL_BUSY_NS;
    while (look(s, tid, offsetof(struct mp_control, standstill_busy)) && clock_mono_ns() < end)
        nap(STANDSTILL_STEP_NS);
}

/* The agent's thread ahead of others, where that is allowed: what stands waits for it. Returns
 * what its nice value was. */
static int agent_nice(pid_t tid, int nice)
{
    int was = tid > 0 ? getpriority(PRIO_PROCESS, (id_t)tid) : 0;

    if (tid > 0)
        (void)setpriority(PRIO_PROCESS, (id_t)tid, nice);
    return was;
}

/* Should we die from here on, the thread waits for the agent, then restores itself: it must not
 * go on in the midst of what the agent may have begun. */
static int arm(struct standstill *s, struct borrow *b)
{
    pid_t tid = b->t.tid;
    int64_t wait[2] = {0, STANDSTILL_DEAD_NS};
    uint64_t until = clock_real_ns() + STANDSTILL_DEAD_NS / 2;
    uint32_t one = 1;
    uint64_t arg[6] = {s->control + offsetof(struct mp_control, standstill_hold), FUTEX_WAIT, one,
                       s->control + offsetof(struct mp_control, standstill_wait), 0, 0};

    if (put(s, tid, offsetof(struct mp_control, standstill_tcb), &b->regs.fs_base, sizeof(b->regs.fs_base)) < 0 ||
        put(s, tid, offsetof(struct mp_control, standstill_wait), wait, sizeof(wait)) < 0 ||
        put(s, tid, offsetof(struct mp_control, standstill_until_ns), &until, sizeof(until)) < 0 ||
        put(s, tid, offsetof(struct mp_control, standstill_hold), &one, sizeof(one)) < 0)
        return -1;
    return remote_begin(&b->remote) < 0 ? -1 : remote_arm(&b->remote, SYS_futex, arg);
}

/* Whether the agent is there still, and waits: it may have left meanwhile, and its control block
 * may be another's memory. */
static bool waits(const struct standstill *s, pid_t live, uint32_t word)
{
    struct mp_control c;

    return ours_read_control(live, s->control, &c) == 0 && c.agent_tid == s->agent_tid && c.standstill == word &&
           !c.standstill_busy;
}

static void stand(void *arg)
{
    struct standstill *s = arg;
    struct borrow b = {.plan = &s->plan, .log = s->log, .wake_fd = -1};
    struct mp_failure ignored = {0};
    pid_t tid = s->plan.facts.pid, agent = 0;
    bool stale = clock_mono_ns() - s->asked_ns > STANDSTILL_STALE_NS;
    int nice, err;

    if (proc_task_of_ns(tid, s->agent_tid, &agent) < 0)
        agent = 0;
    nice = agent_nice(agent, STANDSTILL_NICE);
    (void)say(s, tid, MP_STANDSTILL_COMING);
    (void)FAULT_POINT("standstill", 0);
    nap(STANDSTILL_COMING_NS);
    err = borrow_one(&b, tid, STANDSTILL_FIND_NS / 1000000, stale, &ignored);
    turns_apart(); /* from here on it is the agent's turn */
    if (err == 0 && waits(s, tid, MP_STANDSTILL_COMING) && arm(s, &b) == 0)
        hold(s, tid, remote_restart_kind(&b.regs) != REMOTE_RESTART_NONE ? MP_STANDSTILL_PARKED : MP_STANDSTILL_RUNNING);
    else if (waits(s, tid, MP_STANDSTILL_COMING))
        (void)say(s, tid, MP_STANDSTILL_ASKED);
    (void)FAULT_POINT("standstill", 2);
    if (err == 0)
        (void)borrow_return(&b);
    (void)agent_nice(agent, nice);
    s->pause_ns = b.pause_ns_sum;
    s->stops = b.attempts;
    borrow_release(&b);
}

uint64_t inject_standstill(const struct inject_plan *p, const struct inject_agent *a, uint64_t asked_ns, FILE *log,
                           unsigned *stops)
{
    struct standstill s = {.plan = *p, .control = a->control_addr, .agent_tid = a->control.agent_tid,
                           .asked_ns = asked_ns, .log = log};
    pid_t live = proc_live_task(p->facts.pid);

    if (!p->gil_count || live < 0 || !waits(&s, live, MP_STANDSTILL_ASKED))
        return 0;
    for (unsigned i = 0; i < p->gil_count && s.plan.unsafe_count < PLAN_UNSAFE_MAX; i++)
        s.plan.unsafe[s.plan.unsafe_count++] = p->gil[i];
    if (borrow_run(stand, &s) != 0)
        return 0;
    if (log)
        fprintf(log, "inject: thread %d stood %llu us for a GIL to be made\n", (int)p->facts.pid,
                (unsigned long long)s.pause_ns / 1000);
    *stops += s.stops;
    return s.pause_ns;
}
