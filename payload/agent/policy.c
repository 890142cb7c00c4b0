/* The governor's policy (policy.h). */
#include "agent/policy.h"

#define SCALE 1000000ull
#define DEPTH_FAR 8u /* so many times over the goal: the depth is halved twice in one window */

void policy_init(struct policy *p, const struct policy_asked *asked)
{
    *p = (struct policy){
        .asked = *asked,
        .now = { .stage = MP_STAGE_FULL, .depth = asked->depth, .rollup_ppm = asked->rollup_ppm },
        .hold = POLICY_HOLD_MIN,
    };
}

uint64_t policy_work(const struct policy_window *w)
{
    uint64_t least = w->cpu_ns / 32 + 1;

    return w->cpu_ns > w->hook_ns && w->cpu_ns - w->hook_ns > least ? w->cpu_ns - w->hook_ns : least;
}

uint32_t policy_ppm(uint64_t part, uint64_t work)
{
    uint64_t ppm;

    if (!work || part / work >= MP_COST_MAX_PPM / SCALE)
        return part ? MP_COST_MAX_PPM : 0;
    while (part > UINT64_MAX / SCALE) { /* hours in one figure: the last digits do not matter */
        part >>= 8;
        work >>= 8;
    }
    ppm = part * SCALE / work;
    return ppm > MP_COST_MAX_PPM ? MP_COST_MAX_PPM : (uint32_t)ppm;
}

bool policy_idle(const struct policy_window *w)
{
    return w->cpu_ns < w->wall_ns / 100 && w->hook_ns < w->wall_ns / 1000;
}

static uint32_t stage_of(const struct policy *p)
{
    const struct policy_state *s = &p->now;

    if (s->quiet)
        return MP_STAGE_QUIET;
    if (s->sample_log2)
        return MP_STAGE_SAMPLED;
    if (s->depth < p->asked.depth)
        return MP_STAGE_DEPTH;
    return s->rollup_ppm < p->asked.rollup_ppm ? MP_STAGE_ROLLUP : MP_STAGE_FULL;
}

/* ---- giving up: each cuts once and says whether there was anything to cut ---------- */

static uint32_t rollup_least(const struct policy *p)
{
    uint32_t least = p->asked.rollup_ppm / POLICY_ROLLUP_CUT;

    return least ? least : p->asked.rollup_ppm ? 1 : 0; /* 0 would mean: never read */
}

/* In steps of 4; all at once when the rest alone is over the goal. */
static bool cut_rollup(struct policy *p, bool rest_over)
{
    uint32_t least = rollup_least(p), next = rest_over ? least : p->now.rollup_ppm / 4;

    if (p->now.rollup_ppm <= least)
        return false;
    p->now.rollup_ppm = next > least ? next : least;
    return true;
}

static bool cut_depth(struct policy *p, uint64_t times_over)
{
    uint32_t d = p->now.depth;

    if (d <= 1)
        return false;
    d = (d + 1) / 2;
    if (times_over >= DEPTH_FAR)
        d = (d + 1) / 2;
    p->now.depth = d;
    return true;
}

/* As many calls less as the cost is too high, since a call not sampled costs next to nothing. */
static bool cut_sample(struct policy *p, uint64_t times_over)
{
    uint32_t n = 1;

    if (p->now.sample_log2 >= MP_SAMPLE_LOG2_MAX)
        return false;
    while (n < MP_SAMPLE_LOG2_MAX && 1ull << n < times_over)
        n++;
    n += p->now.sample_log2;
    p->now.sample_log2 = n > MP_SAMPLE_LOG2_MAX ? MP_SAMPLE_LOG2_MAX : n;
    return true;
}

static bool cut_all(struct policy *p)
{
    bool was = p->now.quiet;

    p->now.quiet = true;
    return !was;
}

static bool give_up(struct policy *p, uint32_t ppm, bool rest_over)
{
    uint64_t times_over = ((uint64_t)ppm + p->room_ppm - 1) / p->room_ppm;

    p->calm = 0;
    if (p->trial && p->hold < POLICY_HOLD_MAX)
        p->hold *= 2;
    p->trial = 0;
    return cut_rollup(p, rest_over) || cut_depth(p, times_over) || cut_sample(p, times_over) || cut_all(p);
}

/* ---- and taking back, from the end ---------------------------------------------------- */

/* From 1 in 2^n to as many as fit under the goal, 8 times as many at most. */
static uint32_t back_sample(const struct policy *p, uint32_t ppm)
{
    uint32_t n = p->now.sample_log2 - 1;

    for (int k = 0; k < 2 && n; k++, n--)
        if ((uint64_t)ppm << (p->now.sample_log2 - n + 1) > p->room_ppm / 4 * 3)
            break;
    return n;
}

static uint32_t at_most(uint64_t v, uint32_t limit)
{
    return v < limit ? (uint32_t)v : limit;
}

static void take_back(struct policy *p, uint32_t ppm)
{
    if (p->trial && p->hold > POLICY_HOLD_MIN)
        p->hold /= 2; /* the step before this one held */
    p->calm = 0;
    p->trial = POLICY_TRIAL;
    if (p->now.quiet)
        p->now.quiet = false;
    else if (p->now.sample_log2)
        p->now.sample_log2 = back_sample(p, ppm);
    else if (p->now.depth < p->asked.depth)
        p->now.depth = at_most(p->now.depth * 2ull, p->asked.depth);
    else if (ppm)
        p->now.rollup_ppm = at_most(p->now.rollup_ppm * 4ull, p->asked.rollup_ppm);
    else /* nothing is going on; and a budget bounds itself */
        p->now.rollup_ppm = p->asked.rollup_ppm;
}

/* A window without a cut: a step back is on trial for a while. */
static void trial_passes(struct policy *p)
{
    if (p->trial && --p->trial == 0 && p->hold > POLICY_HOLD_MIN)
        p->hold /= 2;
}

/* What the floor leaves of the goal for what is traced: at least half of it. */
static uint32_t room_ppm(uint32_t goal, uint32_t floor)
{
    uint32_t least = goal - goal / 2;

    return goal > floor && goal - floor > least ? goal - floor : least;
}

bool policy_next(struct policy *p, const struct policy_window *w)
{
    uint64_t work = policy_work(w), floor = w->floor_ns < w->hook_ns ? w->floor_ns : w->hook_ns;
    uint64_t cut = w->hook_ns - floor, rest = cut > w->rollup_ns ? cut - w->rollup_ns : 0;
    uint32_t ppm;
    bool idle = policy_idle(w), changed = false;

    if (!p->asked.goal_ppm || !w->wall_ns)
        return false;
    if (work < w->wall_ns / POLICY_SPARE)
        work = w->wall_ns / POLICY_SPARE;
    ppm = policy_ppm(cut, work);
    p->room_ppm = room_ppm(p->asked.goal_ppm, policy_ppm(floor, work));
    if (!idle && ppm > p->room_ppm) {
        changed = give_up(p, ppm, policy_ppm(rest, work) > p->room_ppm);
    } else {
        p->calm = idle || ppm <= p->room_ppm / 2 ? p->calm + 1 : 0;
        if (p->now.stage != MP_STAGE_FULL && p->calm >= p->hold) {
            take_back(p, idle ? 0 : ppm);
            changed = true;
        } else {
            trial_passes(p);
        }
    }
    p->now.stage = stage_of(p);
    return changed;
}
