/* The governor's measurements (governor.h).
 *
 * Cost model. Time in hooks can't be measured by the hooks: two clock reads cost more
 * than most of them. They count instead, and each kind of event has a price:
 *
 *   passed   the thunk's compares. Up to 3.10 2 ns; on 3.11 25 ns, since a call
 *            through the slot is no longer inlined: nearly all of it is the
 *            interpreter's
 *   faded    from 3.12: a function's events were switched off (FADE_COST_NS), and the
 *            events until then
 *   raise    from 3.12: an event of a call that ends by an exception, or resumes by one:
 *            90 ns and 150 ns more, CPython has to make an object of the exception
 *   event    another slow-path entry: `passed` and 8 ns of ours; from 3.12 90 ns, the way
 *            through sys.monitoring and back
 *   edge     an entry or exit that is measured: clock, getrusage and the record, as
 *            one edge in 61 is timed where it happens (before the first: as the
 *            self-test at the attach timed the two), and 120 ns of ours around it
 *   statm    its reading, where one was needed: timed likewise
 *   cold     an edge MP_COLD_NS or more after the thread's last one: what it has to fetch
 *            before the clock runs, and what the program has to fetch again after it
 *   rollup   smaps_rollup: timed at every reading
 *
 * The first three are the floor: they are paid while the hook is there, whatever is
 * traced, and are not judged (policy.h).
 *
 * The constants were taken with tests/agent/bench.py, per version, and `cold` and `raise`
 * by twins (tests/bench), on one machine: another one differs by its clock, which a goal
 * of a few per cent can stand. What depends on the kernel and on the process is measured. */
#include "agent/governor.h"

#include "agent/policy.h"
#include "agent/python.h"

#define CPU_OF_PROCESS 2 /* CLOCK_PROCESS_CPUTIME_ID */
#define CPU_OF_THREAD 3  /* CLOCK_THREAD_CPUTIME_ID */
#define WINDOW_NS 1000000000ull
#define WINDOW_TRIAL_NS 250000000ull /* while a step back is on trial */
#define WINDOW_SHORT_NS 100000000ull /* the first ones, and those after a cut: a flood is met early */
#define WINDOWS_SHORT 4u

#define PASSED_NS 2u
#define PASSED_311_NS 25u
#define EVENT_NS 8u
#define EVENT_MONITORING_NS 90u
#define RAISE_NS 150u
#define EDGE_NS 120u
#define COLD_NS 1000u

struct counters {
    uint64_t wall, process, agent, hook, floor, rollup;
};

static struct policy policy;
static struct counters origin, last; /* at the hook, and at the last window's end */
static struct mp_account account;
static struct mp_govern govern; /* of the last window */
static uint64_t window_end;     /* 0: not started */
static unsigned windows_short;  /* so many are still to be short ones */
static bool to_announce;
static bool hook_out;           /* for quiet */
static uint64_t passed;

static uint64_t passed_ns(void)
{
    return g.minor == 11 ? PASSED_311_NS : PASSED_NS;
}

/* The thunk's own count goes with its page at the unhook. */
static uint64_t passed_count(void)
{
    uint64_t n = hook_quiet_count();

    if (passed < n)
        passed = n;
    return passed;
}

uint64_t governor_events(void)
{
    return g.events + g.line_events + passed_count();
}

static uint64_t floor_ns(void)
{
    return passed_count() * passed_ns() + g.faded * FADE_COST_NS + g.fading * EVENT_MONITORING_NS +
           g.raises * (EVENT_MONITORING_NS + RAISE_NS);
}

uint64_t governor_hook_ns(void)
{
    uint64_t event = g.minor >= 12 ? EVENT_MONITORING_NS : passed_ns() + EVENT_NS;

    return floor_ns() + (g.events - g.fading - g.raises + g.line_events) * event + g.edges * EDGE_NS + g.edge_ns +
           g.cold * COLD_NS + g.statm_ns + g.rollup_ns;
}

static struct counters counters_now(uint64_t now)
{
    struct counters c = {
        .wall = now,
        .process = clock_ns(CPU_OF_PROCESS),
        .agent = clock_ns(CPU_OF_THREAD),
        .hook = governor_hook_ns(),
        .floor = floor_ns(),
        .rollup = g.rollup_ns,
    };

    return c;
}

static uint64_t less(uint64_t a, uint64_t b)
{
    return a > b ? a - b : 0;
}

/* Where no CPU clock can be read (a sandbox), wall time stands in for it. */
static struct policy_window window_between(const struct counters *a, const struct counters *b)
{
    struct policy_window w = {
        .wall_ns = less(b->wall, a->wall),
        .cpu_ns = less(less(b->process, a->process), less(b->agent, a->agent)),
        .hook_ns = less(b->hook, a->hook),
        .floor_ns = less(b->floor, a->floor),
        .rollup_ns = less(b->rollup, a->rollup),
    };

    if (!b->process)
        w.cpu_ns = w.wall_ns;
    return w;
}

void governor_init(void)
{
    struct policy_asked asked = {
        .goal_ppm = g.opt.max_overhead_ppm,
        .depth = g.opt.depth,
        .rollup_ppm = g.opt.flags & MP_OPT_NO_ROLLUP ? 0 : g.opt.rollup_budget_ppm,
    };

    policy_init(&policy, &asked);
    hook_out = false;
    g.gov = (struct governor){ .depth = asked.depth, .rollup_ppm = g.opt.rollup_budget_ppm };
    memset(&account, 0, sizeof(account));
    account.least_depth = asked.depth;
    govern = (struct mp_govern){ .depth = asked.depth, .rollup_ppm = asked.rollup_ppm };
    window_end = passed = 0;
    to_announce = false;
}

/* For `status`, which may read while this writes: each figure is right by itself. */
static void account_publish(void)
{
    account.blind_ns = g.round_ns;
    account.rest_ns = g.rest_ns;
    mp_control_block.govern = govern;
    mp_control_block.account = account;
}

static uint64_t window_length(bool changed)
{
    if (policy.trial)
        return WINDOW_TRIAL_NS;
    if (changed)
        windows_short = WINDOWS_SHORT;
    if (!windows_short)
        return WINDOW_NS;
    windows_short--;
    return WINDOW_SHORT_NS;
}

void governor_start(uint64_t now)
{
    origin = last = counters_now(now);
    govern.time_ns = now;
    account_publish();
    windows_short = WINDOWS_SHORT;
    window_end = now + window_length(false);
}

/* Quiet is no hook at all: what is let pass costs as well. Where memory lacks for that it
 * is done at a later tick. */
static void follow_quiet(void)
{
    int state;

    if (hook_out == !!g.gov.quiet || py_finalizing() || !py_try(1, &state))
        return;
    hook_out = !hook_out;
    if (hook_out)
        hook_pause();
    else
        hook_resume();
    py_release(state);
}

/* Hooks read each word by itself, at any time. Those that threads keep a copy of are
 * followed when g.force has moved. */
static void put_in_force(const struct policy_state *s)
{
    bool moved = g.gov.depth != s->depth || g.gov.sample_log2 != s->sample_log2;

    __atomic_store_n(&g.gov.rollup_ppm, s->rollup_ppm, __ATOMIC_SEQ_CST);
    __atomic_store_n(&g.gov.depth, s->depth, __ATOMIC_SEQ_CST);
    __atomic_store_n(&g.gov.sample_log2, s->sample_log2, __ATOMIC_SEQ_CST);
    __atomic_store_n(&g.gov.stage, s->stage, __ATOMIC_SEQ_CST);
    __atomic_store_n(&g.gov.quiet, s->quiet, __ATOMIC_SEQ_CST);
    if (moved)
        hook_force();
    follow_quiet();
}

/* The window that ends now belongs to the stage that was in force in it. */
static void account_window(const struct counters *now, const struct policy_window *w)
{
    struct policy_window all = window_between(&origin, now);
    uint64_t work = policy_work(w);

    account.work_ns = policy_work(&all);
    account.agent_ns = less(now->agent, origin.agent);
    account.floor_ns = now->floor;
    account.stage_ns[policy.now.stage] += w->wall_ns;
    if (w->wall_ns < WINDOW_SHORT_NS / 2)
        return; /* the last one: too short to say what anything costs */
    account.cost_ppm = policy_ppm(w->hook_ns, work);
    govern.window_ns = w->wall_ns;
    govern.hook_ns = w->hook_ns;
    govern.work_ns = work;
    govern.cost_ppm = account.cost_ppm;
    govern.floor_ppm = policy_ppm(w->floor_ns, work);
}

static void account_state(uint64_t now)
{
    const struct policy_state *s = &policy.now;

    if (account.deepest < s->stage)
        account.deepest = s->stage;
    if (account.least_depth > s->depth)
        account.least_depth = s->depth;
    if (account.most_sample_log2 < s->sample_log2)
        account.most_sample_log2 = s->sample_log2;
    govern.time_ns = now;
    govern.stage = s->stage;
    govern.depth = s->depth;
    govern.sample_log2 = s->sample_log2;
    govern.rollup_ppm = s->rollup_ppm;
}

/* A full socket keeps the news back; what comes through then is the newest. */
static void announce(void)
{
    if (to_announce && wire_room(sizeof(struct mp_frame) + sizeof(govern)))
        to_announce = wire_frame(MP_MSG_GOVERN, 1, &govern, sizeof(govern), NULL, 0) <= 0;
}

void governor_tick(uint64_t now)
{
    struct policy_window w;
    struct counters c;
    bool changed;

    follow_quiet();
    if (!window_end)
        return;
    announce();
    if (now < window_end)
        return;
    c = counters_now(now);
    w = window_between(&last, &c);
    last = c;
    account_window(&c, &w);
    changed = policy_next(&policy, &w);
    if (changed) {
        put_in_force(&policy.now);
        now = clock_ns(CLOCK_MONOTONIC); /* the GIL may have taken its time */
        account_state(now);
        to_announce = true;
        announce();
    }
    account_publish();
    window_end = now + window_length(changed);
}

void governor_stop(uint64_t now)
{
    struct policy_window w;
    struct counters c;

    if (!window_end)
        return;
    c = counters_now(now);
    w = window_between(&last, &c);
    last = c;
    if (w.wall_ns)
        account_window(&c, &w);
    account_publish();
    window_end = 0;
}

struct mp_account governor_account(void)
{
    return account;
}
