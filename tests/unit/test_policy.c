/* The governor's policy: which measurement leads to which state. Natively: the agent's
 * own source, which needs nothing of the agent. */
#include "agent/policy.c"

#include "wire_gen.h"

#define MS 1000000ull
#define GOAL 20000u /* 2% */

static struct policy start(uint32_t depth, uint32_t rollup)
{
    struct policy p;

    policy_init(&p, &(struct policy_asked){GOAL, depth, rollup});
    return p;
}

/* A window of a second in which the target worked 500 ms and hooks took ppm of that. */
static struct policy_window window(uint32_t ppm)
{
    uint64_t hook = 500 * MS * ppm / 1000000;

    return (struct policy_window){.wall_ns = 1000 * MS, .cpu_ns = 500 * MS + hook, .hook_ns = hook};
}

static bool next(struct policy *p, uint32_t ppm)
{
    struct policy_window w = window(ppm);

    return policy_next(p, &w);
}

static void expect(const struct policy *p, unsigned stage, unsigned depth, unsigned sample, unsigned rollup)
{
    ck_assert_uint_eq(p->now.stage, stage);
    ck_assert_uint_eq(p->now.depth, depth);
    ck_assert_uint_eq(p->now.sample_log2, sample);
    ck_assert_uint_eq(p->now.rollup_ppm, rollup);
    ck_assert(p->now.quiet == (stage == MP_STAGE_QUIET));
}

/* One window of each kind, from the start: what is cut. */
START_TEST(test_table)
{
    static const struct {
        uint32_t goal, depth, rollup;
        struct policy_window w; /* ms */
        unsigned stage, to_depth, to_sample, to_rollup;
    } rows[] = {
        /* off; an empty window */
        {0, 3, 5000, {1000, 1000, 900, 0, 0}, MP_STAGE_FULL, 3, 0, 5000},
        {GOAL, 3, 5000, {0, 0, 0, 0, 0}, MP_STAGE_FULL, 3, 0, 5000},
        /* at the goal, just above it */
        {GOAL, 3, 5000, {1000, 510, 10, 0, 0}, MP_STAGE_FULL, 3, 0, 5000},
        {GOAL, 3, 5000, {1000, 511, 11, 0, 0}, MP_STAGE_ROLLUP, 3, 0, 78},
        /* smaps_rollup alone is too dear: a quarter of it; with the rest as dear: all of it that can be cut */
        {GOAL, 3, 5000, {1000, 520, 20, 0, 15}, MP_STAGE_ROLLUP, 3, 0, 1250},
        {GOAL, 3, 5000, {1000, 560, 60, 0, 15}, MP_STAGE_ROLLUP, 3, 0, 78},
        /* a budget too small to divide is never cut to 0, which would mean: not at all */
        {GOAL, 3, 30, {1000, 560, 60, 0, 15}, MP_STAGE_ROLLUP, 3, 0, 1},
        {GOAL, 3, 1, {1000, 560, 60, 0, 15}, MP_STAGE_DEPTH, 2, 0, 1},
        /* no smaps_rollup: the depth; far above the goal twice */
        {GOAL, 3, 0, {1000, 520, 20, 0, 0}, MP_STAGE_DEPTH, 2, 0, 0},
        {GOAL, 3, 0, {1000, 900, 400, 0, 0}, MP_STAGE_DEPTH, 1, 0, 0},
        {GOAL, 128, 0, {1000, 520, 20, 0, 0}, MP_STAGE_DEPTH, 64, 0, 0},
        /* depth 1: sampling, as rare as the cost is high */
        {GOAL, 1, 0, {1000, 515, 15, 0, 0}, MP_STAGE_SAMPLED, 1, 1, 0},
        {GOAL, 1, 0, {1000, 550, 50, 0, 0}, MP_STAGE_SAMPLED, 1, 3, 0},
        {GOAL, 1, 0, {1000, 1000, 990, 0, 0}, MP_STAGE_SAMPLED, 1, 9, 0},
        /* more hook time than CPU time: an estimate too high is dear all the same */
        {GOAL, 1, 0, {1000, 100, 2000, 0, 0}, MP_STAGE_SAMPLED, 1, 10, 0},
        /* idle: hardly any CPU and hardly any hooks; either alone is judged */
        {100, 1, 0, {10000, 9, 9, 0, 0}, MP_STAGE_FULL, 1, 0, 0},
        {100, 1, 0, {10000, 99, 11, 0, 0}, MP_STAGE_SAMPLED, 1, 7, 0},
        {100, 1, 0, {10000, 101, 9, 0, 0}, MP_STAGE_SAMPLED, 1, 7, 0},
        /* a little work is judged as a tenth of a CPU */
        {GOAL, 3, 0, {10000, 130, 20, 0, 0}, MP_STAGE_FULL, 3, 0, 0},
        {GOAL, 3, 0, {10000, 130, 21, 0, 0}, MP_STAGE_DEPTH, 2, 0, 0},
        {GOAL, 3, 0, {10000, 1121, 21, 0, 0}, MP_STAGE_FULL, 3, 0, 0},
        {GOAL, 3, 0, {10000, 1129, 29, 0, 0}, MP_STAGE_DEPTH, 2, 0, 0},
        /* what the hook costs by its presence takes its part of the goal, up to half; the rest is judged */
        {GOAL, 3, 0, {1000, 509, 9, 4, 0}, MP_STAGE_FULL, 3, 0, 0},
        {GOAL, 3, 0, {1000, 511, 11, 4, 0}, MP_STAGE_DEPTH, 2, 0, 0},
        {GOAL, 3, 0, {1000, 700, 200, 195, 0}, MP_STAGE_FULL, 3, 0, 0},
        {GOAL, 3, 0, {1000, 700, 200, 194, 0}, MP_STAGE_DEPTH, 2, 0, 0},
        {GOAL, 3, 0, {1000, 700, 200, 999, 0}, MP_STAGE_FULL, 3, 0, 0},
        {GOAL, 1, 0, {1000, 700, 200, 180, 0}, MP_STAGE_SAMPLED, 1, 2, 0},
    };
    const struct policy_window *w = &rows[_i].w;
    struct policy_window ns = {w->wall_ns * MS, w->cpu_ns * MS, w->hook_ns * MS, w->floor_ns * MS, w->rollup_ns * MS};
    struct policy p;

    ck_assert_int_lt(_i, (int)(sizeof(rows) / sizeof(rows[0])));
    policy_init(&p, &(struct policy_asked){rows[_i].goal, rows[_i].depth, rows[_i].rollup});
    ck_assert(policy_next(&p, &ns) == (rows[_i].stage != MP_STAGE_FULL));
    expect(&p, rows[_i].stage, rows[_i].to_depth, rows[_i].to_sample, rows[_i].to_rollup);
}
END_TEST
#define TABLE_ROWS 28

/* A flood that nothing stops goes through every stage in order, and then stays quiet. */
START_TEST(test_order)
{
    struct policy p = start(3, 5000);

    ck_assert(next(&p, 500000));
    expect(&p, MP_STAGE_ROLLUP, 3, 0, 78);
    ck_assert(next(&p, 30000));
    expect(&p, MP_STAGE_DEPTH, 2, 0, 78);
    ck_assert(next(&p, 30000));
    expect(&p, MP_STAGE_DEPTH, 1, 0, 78);
    ck_assert(next(&p, 100000));
    expect(&p, MP_STAGE_SAMPLED, 1, 3, 78);
    ck_assert(next(&p, 900000));
    expect(&p, MP_STAGE_SAMPLED, 1, 9, 78);
    ck_assert(next(&p, 21000));
    expect(&p, MP_STAGE_SAMPLED, 1, 10, 78);
    ck_assert(next(&p, 21000));
    expect(&p, MP_STAGE_QUIET, 1, 10, 78);
    for (int i = 0; i < 5; i++)
        ck_assert(!next(&p, 21000));
    expect(&p, MP_STAGE_QUIET, 1, 10, 78);
}
END_TEST

static void flood(struct policy *p)
{
    for (int i = 0; i < 20; i++)
        next(p, 900000);
    ck_assert_uint_eq(p->now.stage, MP_STAGE_QUIET);
}

/* When the load stops: back through the stages, in the reverse order, to all of it. */
START_TEST(test_recovery)
{
    struct policy p = start(3, 5000);
    uint32_t stage = MP_STAGE_QUIET;
    int windows = 0;

    flood(&p);
    for (; p.now.stage != MP_STAGE_FULL && windows < 100; windows++) {
        next(&p, 0);
        ck_assert_uint_le(p.now.stage, stage);
        ck_assert_uint_le(stage - p.now.stage, 1);
        stage = p.now.stage;
    }
    expect(&p, MP_STAGE_FULL, 3, 0, 5000);
    ck_assert_int_le(windows, 30);
    ck_assert(!next(&p, 0));
}
END_TEST

/* Between half the goal and the goal nothing moves, either way. */
START_TEST(test_hysteresis)
{
    struct policy p = start(1, 0);

    next(&p, 50000);
    expect(&p, MP_STAGE_SAMPLED, 1, 3 - 1, 0);
    for (int i = 0; i < 100; i++)
        ck_assert(!next(&p, i & 1 ? GOAL : GOAL / 2 + 1000));
    for (int i = 0; i < 100; i++) /* calm, but never for long enough */
        ck_assert(!next(&p, i & 1 ? GOAL : 0));
}
END_TEST

/* The first step back is as large as fits under the goal. */
START_TEST(test_back_sample)
{
    static const struct {
        uint32_t ppm, to;
    } rows[] = {{0, 7}, {1800, 7}, {2000, 8}, {3700, 8}, {3800, 9}, {10000, 9}};
    struct policy p = start(1, 0);

    p.now.sample_log2 = 10;
    p.now.stage = MP_STAGE_SAMPLED;
    for (unsigned i = 0; i < POLICY_HOLD_MIN; i++)
        next(&p, rows[_i].ppm);
    expect(&p, MP_STAGE_SAMPLED, 1, rows[_i].to, 0);
}
END_TEST

/* A load that is too dear whenever it is traced again: ever rarer attempts. */
START_TEST(test_back_off)
{
    struct policy p = start(1, 0);
    int last = -1, gap = 0, attempts = 0;

    flood(&p);
    for (int i = 0; i < 1000; i++) {
        uint32_t before = p.now.stage;

        next(&p, p.now.quiet ? 0 : 900000);
        if (before == MP_STAGE_QUIET && p.now.stage != MP_STAGE_QUIET) {
            attempts++;
            if (last >= 0) {
                ck_assert_int_ge(i - last, gap);
                gap = i - last;
            }
            last = i;
        }
    }
    ck_assert_int_ge(gap, (int)POLICY_HOLD_MAX);
    ck_assert_int_le(attempts, 30);
    for (int i = 0; i < 200 && p.now.stage != MP_STAGE_FULL; i++) /* and when it ends, all comes back */
        next(&p, 0);
    ck_assert_uint_eq(p.now.stage, MP_STAGE_FULL);
    ck_assert_uint_le(p.hold, POLICY_HOLD_MAX / 4);
}
END_TEST

/* Whatever comes: one stage a window at most, within what was asked for, order kept. */
START_TEST(test_any)
{
    struct policy p = start(1u + (unsigned)_i * 9 % 128, (unsigned)_i * 700);
    struct policy_asked asked = p.asked;
    unsigned seed = 4711u + (unsigned)_i;

    for (int i = 0; i < 20000; i++) {
        struct policy_window w;
        uint32_t stage = p.now.stage, r;

        seed = seed * 1664525u + 1013904223u;
        r = seed >> 8;
        w = (struct policy_window){.wall_ns = (r & 7) * 100 * MS, .cpu_ns = (r >> 3 & 31) * 10 * MS,
                                   .hook_ns = (r >> 8 & 15) * (r >> 12 & 7) * MS, .floor_ns = (r >> 15 & 1) * MS * 3,
                                   .rollup_ns = (r >> 16 & 7) * MS};
        if ((r & 0xffff0) == 0)
            w = (struct policy_window){UINT64_MAX, UINT64_MAX, UINT64_MAX, UINT64_MAX, UINT64_MAX};
        policy_next(&p, &w);
        ck_assert_uint_ge(p.now.depth, 1);
        ck_assert_uint_le(p.now.depth, asked.depth);
        ck_assert_uint_le(p.now.rollup_ppm, asked.rollup_ppm);
        ck_assert(!asked.rollup_ppm == !p.now.rollup_ppm);
        ck_assert_uint_le(p.now.sample_log2, MP_SAMPLE_LOG2_MAX);
        ck_assert_uint_eq(p.now.stage, stage_of(&p));
        ck_assert(!p.now.sample_log2 || p.now.depth == 1);
        ck_assert(!p.now.quiet || p.now.sample_log2 == MP_SAMPLE_LOG2_MAX);
        ck_assert(p.now.depth == asked.depth || p.now.rollup_ppm == rollup_least(&p));
        ck_assert_uint_le(p.hold, POLICY_HOLD_MAX);
        if (p.now.stage > stage && stage != MP_STAGE_FULL && asked.depth > 1)
            ck_assert_uint_eq(p.now.stage - stage, 1);
    }
}
END_TEST

START_TEST(test_ppm)
{
    ck_assert_uint_eq(policy_ppm(0, 0), 0);
    ck_assert_uint_eq(policy_ppm(1, 0), MP_COST_MAX_PPM);
    ck_assert_uint_eq(policy_ppm(1, 3), 333333);
    ck_assert_uint_eq(policy_ppm(999, 1), 999000000);
    ck_assert_uint_eq(policy_ppm(1000, 1), MP_COST_MAX_PPM);
    ck_assert_uint_eq(policy_ppm(UINT64_MAX, 1), MP_COST_MAX_PPM);
    ck_assert_uint_eq(policy_ppm(UINT64_MAX, UINT64_MAX), 1000000);
    ck_assert_uint_eq(policy_ppm(1ull << 50, 1ull << 51), 500000);
}
END_TEST

int main(void)
{
    TCase *tc = tcase_create("policy");

    tcase_add_loop_test(tc, test_table, 0, TABLE_ROWS);
    tcase_add_test(tc, test_order);
    tcase_add_test(tc, test_recovery);
    tcase_add_test(tc, test_hysteresis);
    tcase_add_loop_test(tc, test_back_sample, 0, 6);
    tcase_add_test(tc, test_back_off);
    tcase_add_loop_test(tc, test_any, 0, 12);
    tcase_add_test(tc, test_ppm);
    return gen_run(tc);
}
