/* The model: self from inclusive under nesting, recursion, threads and loss;
 * lines; bounds. Figures in pages unless said otherwise. */
#include "wire_gen.h"

#define PAGES(n) ((n) * (int64_t)GEN_PAGE)

static struct model *play(struct gen *g)
{
    struct model *m = model_new(GEN_PAGE);

    ck_assert_ptr_nonnull(m);
    gen_play(g, m, NULL);
    gen_free(g);
    return m;
}

static void expect(const struct model *m, uint32_t id, uint64_t calls, int64_t incl, int64_t self, uint64_t own_incl,
                   uint64_t own_self)
{
    const struct model_code *c = model_code(m, id);

    ck_assert_ptr_nonnull(c);
    ck_assert_uint_eq(c->calls, calls);
    ck_assert_int_eq(c->rss_incl, PAGES(incl));
    ck_assert_int_eq(c->rss_self, PAGES(self));
    ck_assert_uint_eq(c->own_incl, own_incl * GEN_PAGE);
    ck_assert_uint_eq(c->own_self, own_self * GEN_PAGE);
}

/* f { g { h } g } */
START_TEST(test_nesting)
{
    struct model *m;
    struct gen g;

    gen_open(&g);
    gen_call1(&g, gen_call(3, 1, 3, 120, 10, 5, 6, 105));
    gen_call1(&g, gen_call(2, 1, 2, 110, 40, 7, 9, 107));
    gen_call1(&g, gen_call(2, 1, 2, 160, 20, -2, 1, 105));
    gen_call1(&g, gen_call(1, 1, 1, 100, 100, 10, 20, 110));
    m = play(&g);
    expect(m, 3, 1, 5, 5, 6, 6);
    expect(m, 2, 2, 5, 0, 10, 4);
    expect(m, 1, 1, 10, 5, 20, 10);
    ck_assert_uint_eq(model_code(m, 1)->time_ns, 100000);
    ck_assert_uint_eq(model_code(m, 1)->self_ns, 40000);
    ck_assert_uint_eq(model_code(m, 2)->self_ns, 50000);
    ck_assert_int_eq(model_code(m, 2)->rss_max_call, PAGES(7));
    model_free(m);
}
END_TEST

/* A call claims only what began after it did: callees of a call that was never
 * recorded go to the next caller up, and are not counted twice. */
START_TEST(test_lost_caller)
{
    struct model_totals t;
    struct model *m;
    struct gen g;

    gen_open(&g);
    gen_call1(&g, gen_call(3, 1, 3, 110, 10, 5, 5, 105)); /* its caller at depth 2 was lost */
    gen_lost(&g, 1, 1, MP_LOST_RING);
    gen_call1(&g, gen_call(3, 1, 3, 140, 10, 4, 4, 109));
    gen_call1(&g, gen_call(2, 1, 2, 130, 30, 4, 4, 109)); /* claims the second only */
    gen_call1(&g, gen_call(1, 1, 1, 100, 100, 11, 11, 111));
    gen_call1(&g, gen_call(1, 1, 1, 300, 10, 0, 0, 111)); /* claims nothing */
    m = play(&g);
    expect(m, 3, 2, 9, 9, 9, 9);
    expect(m, 2, 1, 4, 0, 4, 0);
    expect(m, 1, 2, 11, 2, 11, 2);
    model_totals(m, &t);
    ck_assert_int_eq(t.rss_attributed, PAGES(11));
    ck_assert_int_eq(t.rss_first, PAGES(100));
    ck_assert_int_eq(t.rss_last, PAGES(111));
    ck_assert_int_eq(t.rss_unattributed, 0);
    ck_assert_uint_eq(t.lost[0], 1);
    ck_assert_uint_eq(t.lost[MP_LOST_RING], 1);
    model_free(m);
}
END_TEST

/* A duration leaves out what reading smaps_rollup took in the callees, so that a
 * caller seems to begin after the first of them. They are its callees all the same. */
START_TEST(test_probe_in_callee)
{
    struct mp_record probed = gen_call(3, 1, 2, 100, 10, 5, 5, 115);
    struct mp_record caller = gen_call(1, 1, 1, 105, 700, 16, 16, 116);
    struct model *m;
    struct gen g;

    probed.flags |= MP_REC_HAS_USS;
    gen_open(&g);
    gen_call1(&g, gen_call(2, 1, 2, 80, 10, 5, 5, 105));
    gen_call1(&g, gen_call(2, 1, 2, 92, 5, 5, 5, 110));
    gen_call1(&g, probed);
    caller.probe_units = 1;
    gen_call1(&g, caller); /* began at 75: 30 us of it were the probe's */
    gen_call1(&g, gen_call(2, 1, 2, 910, 10, 5, 5, 105));
    gen_call1(&g, gen_call(1, 1, 1, 930, 20, 3, 3, 116)); /* no probe, no doubt */
    m = play(&g);
    expect(m, 1, 2, 19, 4, 19, 4);
    model_free(m);
}
END_TEST

/* f f f: inclusive counts the outermost; f g f likewise. */
START_TEST(test_recursion)
{
    struct model *m;
    struct gen g;

    gen_open(&g);
    gen_call1(&g, gen_call(1, 1, 3, 120, 10, 3, 3, 103));
    gen_call1(&g, gen_call(1, 1, 2, 110, 30, 5, 5, 105));
    gen_call1(&g, gen_call(1, 1, 1, 100, 50, 9, 9, 109));
    gen_call1(&g, gen_call(4, 1, 3, 220, 10, 3, 3, 112));
    gen_call1(&g, gen_call(5, 1, 2, 210, 30, 5, 5, 114));
    gen_call1(&g, gen_call(4, 1, 1, 200, 50, 9, 9, 118));
    m = play(&g);
    expect(m, 1, 3, 9, 9, 9, 9);
    ck_assert_uint_eq(model_code(m, 1)->time_ns, 50000);
    ck_assert_uint_eq(model_code(m, 1)->self_ns, 50000);
    expect(m, 4, 2, 9, 7, 9, 7);
    expect(m, 5, 1, 5, 2, 5, 2);
    ck_assert_uint_eq(model_code(m, 4)->time_ns, 50000);
    model_free(m);
}
END_TEST

/* What a caller releases is taken off what its callees took in that call: the
 * last first, as far as it goes, and never off an earlier call. */
START_TEST(test_release)
{
    struct model *m;
    struct gen g;

    gen_open(&g);
    gen_call1(&g, gen_call(4, 1, 1, 10, 20, 50, 50, 150)); /* an earlier call's growth is safe */
    gen_call1(&g, gen_call(2, 1, 2, 110, 10, 8, 8, 158));
    gen_call1(&g, gen_call(3, 1, 3, 131, 5, 20, 20, 178));
    gen_call1(&g, gen_call(2, 1, 2, 130, 10, 21, 21, 179));
    gen_call1(&g, gen_call(1, 1, 1, 100, 100, 4, 29, 154)); /* released 25: 1 and 20 of the last, 4 of the first */
    gen_call1(&g, gen_call(1, 1, 1, 300, 100, -7, 0, 147)); /* no callees: its own */
    m = play(&g);
    expect(m, 3, 1, 20, 0, 20, 20);
    expect(m, 2, 2, 29, 4, 29, 9);
    expect(m, 1, 2, -3, -7, 29, 0);
    expect(m, 4, 1, 50, 50, 50, 50);
    model_free(m);
}
END_TEST

/* What goes between two outermost calls was the first one's locals: not the leak's of
 * the call before, and with a second thread about as without. */
START_TEST(test_release_between)
{
    struct model *m;
    struct gen g;
    uint32_t rss = 1000;

    gen_open(&g);
    for (uint64_t i = 0; i < 3; i++) {
        gen_call1(&g, gen_call(2, 1, 1, 1000 * i + 100, 10, 1280, 1280, rss + 1280)); /* freed after its return */
        if (_i)
            gen_call1(&g, gen_call(4, 2, 1, 1000 * i + 111, 1, 0, 0, rss));
        gen_call1(&g, gen_call(3, 1, 1, 1000 * i + 120, 10, 25, 25, rss + 25));
        rss += 25;
    }
    m = play(&g);
    expect(m, 2, 3, 3840, 0, 3840, 3840);
    expect(m, 3, 3, 75, 75, 75, 75);
    model_free(m);
}
END_TEST

/* The same within a caller: request() { handle(); leak(); }, a hundred times in work().
 * request's own frame takes the result of make() with it, after its return. */
START_TEST(test_release_callees)
{
    struct model_totals t;
    struct model *m;
    struct gen g;
    uint32_t rss = 1000;

    gen_open(&g);
    for (uint64_t i = 0; i < 100; i++) {
        uint64_t at = 1000 * i + 100;

        gen_call1(&g, gen_call(5, 1, 3, at + 1, 5, 700, 700, rss + 700)); /* make: request holds it */
        gen_call1(&g, gen_call(2, 1, 3, at + 10, 10, 1280, 1280, rss + 700 + 1280)); /* handle's locals go */
        gen_call1(&g, gen_call(3, 1, 3, at + 30, 10, 25, 25, rss + 700 + 25));
        gen_call1(&g, gen_call(1, 1, 2, at, 50, 725, 2005, rss + 725));
        rss += 25;
    }
    gen_call1(&g, gen_call(4, 1, 1, 99, 200000, 2500, 200500, rss));
    m = play(&g);
    expect(m, 2, 100, 128000, 0, 128000, 128000);
    expect(m, 5, 100, 70000, 0, 70000, 70000);
    expect(m, 3, 100, 2500, 2500, 2500, 2500);
    expect(m, 1, 100, 72500, 0, 200500, 0);
    expect(m, 4, 1, 2500, 0, 200500, 0);
    model_totals(m, &t);
    ck_assert_int_eq(t.rss_unattributed, 0);
    ck_assert_int_eq(t.rss_shared, 0);
    model_free(m);
}
END_TEST

/* A function that frees what another one keeps has a row of its own: nobody's growth
 * is taken off for it, whatever its size. */
START_TEST(test_release_own)
{
    struct model *m;
    struct gen g;

    gen_open(&g);
    gen_call1(&g, gen_call(2, 1, 1, 100, 10, 300, 300, 1300));
    gen_call1(&g, gen_call(3, 1, 2, 210, 10, 100, 100, 1100)); /* entered at 1000 */
    gen_call1(&g, gen_call(1, 1, 1, 200, 50, -200, 100, 1100)); /* clears at its start, then calls */
    m = play(&g);
    expect(m, 2, 1, 300, 300, 300, 300);
    expect(m, 3, 1, 100, 100, 100, 100);
    expect(m, 1, 1, -200, -300, 100, 0);
    model_free(m);
}
END_TEST

/* Two threads whose releases hide one another: what the functions have too much of is
 * taken off those that were seen to release. One that waits is charged with another
 * thread's release only if the process shrank for it. */
START_TEST(test_release_threads)
{
    struct model_totals t;
    struct model *m;
    struct gen g;

    gen_open(&g);
    gen_call1(&g, gen_call(2, 1, 1, 100, 10, 500, 500, 1500)); /* its release is seen: entry of the next at 1000 */
    gen_call1(&g, gen_call(3, 1, 1, 120, 10, 20, 20, 1020));
    gen_call1(&g, gen_call(2, 1, 1, 140, 10, 500, 500, 1520)); /* hidden: thread 2 grew as much */
    gen_call1(&g, gen_call(3, 1, 1, 160, 10, 20, 20, 1540));
    gen_call1(&g, gen_call(4, 2, 1, 150, 5, 500, 500, 1540));
    gen_call1(&g, gen_call(5, 2, 1, 200, 90000, -500, 0, 1040)); /* waits; thread 1 releases meanwhile */
    m = play(&g);
    model_totals(m, &t);
    ck_assert_int_eq(t.rss_shared, PAGES(500 + 20 + 500 + 20 - 40));
    ck_assert_int_eq(t.rss_unattributed, 0);
    expect(m, 5, 1, -500, -500, 0, 0);
    expect(m, 2, 2, 1000, 0, 1000, 1000);
    expect(m, 3, 2, 40, 40, 40, 40);
    model_free(m);
}
END_TEST

/* Growth during a call that took no page fault is another thread's. */
START_TEST(test_foreign_growth)
{
    struct model_totals t;
    struct model *m;
    struct gen g;

    gen_open(&g);
    gen_call1(&g, gen_call(2, 1, 1, 100, 100, 10, 10, 110));
    gen_call1(&g, gen_call(1, 2, 1, 90, 200, 10, 0, 110)); /* waited meanwhile */
    m = play(&g);
    expect(m, 1, 1, 10, 0, 0, 0);
    expect(m, 2, 1, 10, 10, 10, 10);
    model_totals(m, &t);
    ck_assert_int_eq(t.rss_unattributed, 0);
    model_free(m);
}
END_TEST

/* Threads do not claim from each other, in whatever order their rings are drained. */
START_TEST(test_threads)
{
    struct mp_record r[4] = {
        gen_call(2, 1, 2, 110, 10, 4, 4, 104), gen_call(1, 1, 1, 100, 30, 6, 6, 106),
        gen_call(2, 2, 2, 210, 10, 3, 3, 109), gen_call(1, 2, 1, 200, 30, 3, 3, 109),
    };
    static const int orders[2][4] = {{0, 1, 2, 3}, {2, 0, 3, 1}};
    struct model_totals t;
    struct model *m;
    struct gen g;

    gen_open(&g);
    for (int i = 0; i < 4; i++)
        gen_call1(&g, r[orders[_i][i]]);
    m = play(&g);
    expect(m, 2, 2, 7, 7, 7, 7);
    expect(m, 1, 2, 9, 2, 9, 2);
    model_totals(m, &t);
    ck_assert(!t.overlap);
    ck_assert_int_eq(t.rss_unattributed, 0);
    model_free(m);
}
END_TEST

/* A call that faulted one page while another thread grew by thousands; unless faults
 * were seen to bring huge pages. */
START_TEST(test_growth_bound)
{
    struct model *m;
    struct gen g;

    gen_open(&g);
    for (uint64_t i = 0; _i && i < 3; i++)
        gen_call1(&g, gen_call(3, 1, 1, 10 + 10 * i, 5, 1024, 2, 1024 * ((uint32_t)i + 1)));
    gen_call1(&g, gen_call(2, 1, 1, 100, 90000, 5000, 1, 9000));
    m = play(&g);
    expect(m, 2, 1, 5000, _i ? 5000 : 32, 1, 1);
    model_free(m);
}
END_TEST

/* The same growth in two calls that ran side by side: NET has it twice, SELF by the faults. */
START_TEST(test_overlap)
{
    struct model_totals t;
    struct model *m;
    struct gen g;

    gen_open(&g);
    gen_call1(&g, gen_call(1, 1, 1, 100, 100, 10, 10, 110));
    gen_call1(&g, gen_call(2, 2, 1, 101, 100, 10, 1, 110));
    m = play(&g);
    model_totals(m, &t);
    ck_assert(t.overlap);
    ck_assert_int_eq(t.rss_attributed, PAGES(11));
    ck_assert_int_eq(t.rss_unattributed, PAGES(-1));
    ck_assert_uint_eq(t.own_attributed, 11 * GEN_PAGE);
    model_free(m);
}
END_TEST

/* A loop of more calls than are kept apart: sums stay exact within one caller. */
START_TEST(test_many_callees)
{
    struct model *m;
    struct gen g;

    gen_open(&g);
    for (uint64_t i = 0; i < 5000; i++)
        gen_call1(&g, gen_call(2, 1, 2, 1000 + i * 10, 5, 1, 2, 101 + (uint32_t)i));
    gen_call1(&g, gen_call(1, 1, 1, 999, 60000, 5010, 10100, 5110));
    m = play(&g);
    expect(m, 2, 5000, 5000, 5000, 10000, 10000);
    expect(m, 1, 1, 5010, 10, 10100, 100);
    model_free(m);
}
END_TEST

/* The same after calls that are not its callees, which are put together with each other only. */
START_TEST(test_many_after_others)
{
    struct model *m;
    struct gen g;

    gen_open(&g);
    for (uint64_t i = 0; i < 7; i++)
        gen_call1(&g, gen_call(3, 1, 1, 10 + i, 1, 0, 0, 100));
    for (uint64_t i = 0; i < 300; i++)
        gen_call1(&g, gen_call(2, 1, 2, 1000 + i * 10, 5, 1, 2, 101 + (uint32_t)i));
    gen_call1(&g, gen_call(1, 1, 1, 999, 60000, 310, 610, 410));
    m = play(&g);
    expect(m, 2, 300, 300, 300, 600, 600);
    expect(m, 1, 1, 310, 10, 610, 10);
    model_free(m);
}
END_TEST

/* Absent is not 0: a call without figures passes its callees' on. */
START_TEST(test_unmeasured)
{
    struct mp_record blind = gen_call(2, 1, 2, 110, 50, 99, 99, 0);
    struct model *m;
    struct gen g;

    blind.flags = 0;
    gen_open(&g);
    gen_call1(&g, gen_call(3, 1, 3, 120, 10, 5, 6, 105));
    gen_call1(&g, blind);
    gen_call1(&g, gen_call(1, 1, 1, 100, 100, 7, 7, 107));
    m = play(&g);
    expect(m, 2, 1, 5, 0, 6, 0);
    expect(m, 1, 1, 7, 2, 7, 1);
    ck_assert_uint_eq(model_code(m, 2)->rss_calls, 0);
    ck_assert_uint_eq(model_code(m, 2)->own_calls, 0);
    ck_assert_uint_eq(model_code(m, 2)->uss_calls, 0);
    model_free(m);
}
END_TEST

START_TEST(test_uss_and_raised)
{
    struct mp_record r = gen_call(1, 1, 1, 10, 5, 1, 1, 10);
    struct model *m;
    struct gen g;

    r.flags |= MP_REC_HAS_USS_DELTA | MP_REC_RAISED;
    r.uss_delta = -4096;
    gen_open(&g);
    gen_call1(&g, r);
    gen_call1(&g, gen_call(1, 1, 1, 20, 5, 1, 1, 11));
    m = play(&g);
    ck_assert_int_eq(model_code(m, 1)->uss_incl, -4096);
    ck_assert_uint_eq(model_code(m, 1)->uss_calls, 1);
    ck_assert_uint_eq(model_code(m, 1)->raised, 1);
    model_free(m);
}
END_TEST

/* Sorted by self, then inclusive, then own, then name. */
START_TEST(test_ranking_order)
{
    static const uint32_t want[] = {4, 1, 5, 2, 3};
    const struct model_code **rank;
    struct model *m;
    struct gen g;

    gen_open(&g);
    gen_code(&g, 2, 1, "beta", "f", "");
    gen_code(&g, 3, 1, "gamma", "f", "");
    gen_code(&g, 7, 1, "never called", "f", "");
    gen_call1(&g, gen_call(5, 1, 1, 50, 5, 0, 1, 100));
    gen_call1(&g, gen_call(3, 1, 1, 60, 5, 0, 0, 100));
    gen_call1(&g, gen_call(2, 1, 1, 70, 5, 0, 0, 100));
    gen_call1(&g, gen_call(4, 1, 2, 110, 5, 9, 9, 109));
    gen_call1(&g, gen_call(1, 1, 1, 100, 50, 9, 9, 109));
    m = play(&g);
    ck_assert_int_eq(model_ranking(m, &rank), 5);
    for (int i = 0; i < 5; i++)
        ck_assert_uint_eq(rank[i]->id, want[i]);
    free(rank);
    model_free(m);
}
END_TEST

/* Names: sanitised, late, repeated, renamed. */
START_TEST(test_names)
{
    struct model *m;
    struct gen g;

    gen_open(&g);
    gen_call1(&g, gen_call(1, 1, 1, 10, 5, 1, 1, 10));
    gen_code(&g, 1, 5, "late\x1b[2J", "f.py", "");
    gen_code(&g, 1, 6, "another", "g.py", "");
    gen_thread(&g, 1, 77, 0, "old");
    gen_thread(&g, 1, 77, MP_THREAD_RENAMED, "new\n");
    m = play(&g);
    ck_assert_str_eq(model_code(m, 1)->name, "late\xef\xbf\xbd[2J");
    ck_assert_str_eq(model_code(m, 1)->module, "");
    ck_assert_uint_eq(model_code(m, 1)->firstlineno, 5);
    ck_assert_uint_eq(model_code(m, 1)->calls, 1);
    ck_assert_str_eq(model_thread(m, 1)->name, "new\xef\xbf\xbd");
    ck_assert_int_eq(model_thread(m, 1)->tid, 77);
    ck_assert_ptr_null(model_code(m, 2));
    ck_assert_ptr_null(model_code(m, MP_CODES_MAX + 1));
    ck_assert_ptr_nonnull(model_code(m, 0));
    ck_assert_ptr_null(model_thread(m, 9));
    model_free(m);
}
END_TEST

/* More threads than are remembered: the idle ones go, the busy one stays. */
START_TEST(test_thread_bound)
{
    struct model *m = model_new(GEN_PAGE);
    struct gen g;

    gen_open(&g);
    gen_thread(&g, 1, 1000, 0, "busy");
    for (uint32_t i = 2; i < 3 * MODEL_THREADS_MAX; i++) {
        gen_thread(&g, i, 1000 + (int32_t)i, 0, "x");
        if (i % 100 == 0)
            gen_call1(&g, gen_call(1, 1, 1, i * 10, 5, 1, 1, 100));
    }
    gen_play(&g, m, NULL);
    ck_assert_ptr_nonnull(model_thread(m, 1));
    ck_assert_ptr_null(model_thread(m, 2));
    ck_assert_ptr_nonnull(model_thread(m, 3 * MODEL_THREADS_MAX - 1));
    gen_free(&g);
    model_free(m);
}
END_TEST

/* f: 10 (calls g: 20, 21) 11 ; growth is charged to the line that ran. */
START_TEST(test_lines)
{
    const struct model_line **lines;
    struct model *m;
    struct gen g;

    gen_open(&g);
    gen_call1(&g, gen_line(1, 1, 1, 100, 10, 1000, 1));  /* 1 page before its first line */
    gen_call1(&g, gen_line(2, 1, 2, 110, 20, 1002, 0));
    gen_call1(&g, gen_line(2, 1, 2, 120, 21, 1005, 3));
    gen_call1(&g, gen_call(2, 1, 2, 108, 30, 9, 9, 1009)); /* 3 at line 20, 6 at 21 */
    gen_call1(&g, gen_line(1, 1, 1, 150, 11, 1010, 7));    /* since line 21: 6 + 1 */
    gen_call1(&g, gen_call(1, 1, 1, 90, 100, 30, 14, 1020)); /* 14 = 1 + 9 + 1 + 3 */
    m = play(&g);
    ck_assert_int_eq(model_lines(m, &lines), 4);
    ck_assert_uint_eq(lines[0]->line, 10);
    ck_assert_uint_eq(lines[1]->line, 20);
    ck_assert_uint_eq(lines[2]->line, 21);
    ck_assert_uint_eq(lines[3]->line, 11);
    ck_assert_uint_eq(lines[0]->own, 10 * GEN_PAGE);
    ck_assert_uint_eq(lines[1]->own, 3 * GEN_PAGE);
    ck_assert_uint_eq(lines[2]->own, 6 * GEN_PAGE);
    ck_assert_uint_eq(lines[3]->own, 3 * GEN_PAGE);
    ck_assert_int_eq(lines[0]->rss_delta, PAGES(10));
    ck_assert_int_eq(lines[1]->rss_delta, PAGES(3));
    ck_assert_int_eq(lines[2]->rss_delta, PAGES(4));
    ck_assert_int_eq(lines[3]->rss_delta, PAGES(10));
    free(lines);
    model_free(m);
}
END_TEST

/* A call whose return was filtered: its last line is not charged with what came
 * between it and the next call of the same function. */
START_TEST(test_line_filtered_return)
{
    const struct model_line **lines;
    struct model *m;
    struct gen g;

    gen_open(&g);
    gen_call1(&g, gen_line(1, 1, 1, 100, 10, 1000, 0));
    gen_call1(&g, gen_line(2, 1, 2, 110, 20, 1000, 0));
    gen_call1(&g, gen_line(1, 1, 1, 120, 11, 1001, 1));
    gen_call1(&g, gen_line(2, 1, 2, 130, 20, 1050, 0));
    m = play(&g);
    ck_assert_int_eq(model_lines(m, &lines), 3);
    ck_assert_uint_eq(lines[1]->line, 20);
    ck_assert_uint_eq(lines[1]->visits, 2);
    ck_assert_int_eq(lines[1]->rss_delta, 0);
    ck_assert_uint_eq(lines[1]->own, 0);
    free(lines);
    model_free(m);
}
END_TEST

/* The first visit by time counts, whichever arrives first. */
START_TEST(test_line_first_visit)
{
    struct mp_record late = gen_line(1, 1, 1, 200, 10, 50, 0), early = gen_line(1, 2, 1, 100, 10, 40, 0);
    const struct model_line **lines;
    struct model *m;
    struct gen g;

    late.flags |= MP_REC_HAS_USS;
    late.uss_bytes = 999;
    gen_open(&g);
    gen_call1(&g, late);
    gen_call1(&g, early);
    m = play(&g);
    ck_assert_int_eq(model_lines(m, &lines), 1);
    ck_assert_uint_eq(lines[0]->visits, 2);
    ck_assert_uint_eq(lines[0]->first_rss, 40 * GEN_PAGE);
    ck_assert(!lines[0]->has_uss);
    free(lines);
    model_free(m);
}
END_TEST

START_TEST(test_line_bound)
{
    struct model *m = model_new(GEN_PAGE);
    const struct model_line **lines;
    struct model_totals t;

    for (uint32_t i = 0; i < MP_LINES_MAX + 10; i++) {
        struct mp_record r = gen_line(1 + i % 7, 1, 1, i, i, 10, 0);
        struct stream_event ev = {.type = MP_MSG_RECORDS, .records = {&r, 1}};

        ck_assert_int_eq(model_event(m, &ev), 0);
    }
    ck_assert_int_eq(model_lines(m, &lines), MP_LINES_MAX);
    model_totals(m, &t);
    ck_assert_uint_eq(t.lines_dropped, 10);
    ck_assert_uint_eq(t.lines, MP_LINES_MAX + 10);
    free(lines);
    model_free(m);
}
END_TEST

/* Figures at the edge of what the decoder lets through add up without overflow. */
START_TEST(test_saturation)
{
    struct model_totals t;
    struct model *m;
    struct gen g;

    gen_open(&g);
    for (uint64_t i = 0; i < 3000; i++) {
        struct mp_record r = gen_call(1, 1, 1, 10, 5, i % 2 ? INT32_MIN : INT32_MAX, UINT32_MAX, UINT32_MAX);

        r.flags |= MP_REC_HAS_USS_DELTA;
        r.uss_delta = (int64_t)STREAM_BYTES_MAX;
        r.time_ns = STREAM_TIME_MAX;
        r.dur_ns = STREAM_TIME_MAX - i;
        gen_call1(&g, r);
    }
    m = play(&g);
    ck_assert_int_eq(model_code(m, 1)->uss_incl, INT64_MAX);
    ck_assert_uint_eq(model_code(m, 1)->calls, 3000);
    model_totals(m, &t);
    model_free(m);
}
END_TEST

/* A record of weight 8 counts eight times; the largest call does not; what was
 * measured in full stays exact beside it. */
START_TEST(test_weights)
{
    struct mp_record r = gen_call(1, 1, 1, 100, 50, 3, 4, 103);
    const struct model_code *c;
    struct model_totals t;
    struct model *m;
    struct gen g;

    r.flags |= MP_REC_RAISED | MP_REC_HAS_USS_DELTA;
    r.uss_delta = 5 * GEN_PAGE;
    r.weight_log2 = 3;
    gen_open(&g);
    gen_call1(&g, r);
    gen_call1(&g, gen_call(1, 1, 1, 200, 10, 1, 1, 104));
    gen_call1(&g, gen_call(2, 1, 1, 300, 10, 2, 2, 106));
    m = play(&g);
    expect(m, 1, 9, 25, 25, 33, 33);
    c = model_code(m, 1);
    ck_assert_uint_eq(c->measured, 2);
    ck_assert_uint_eq(c->time_ns, 8 * 50000 + 10000);
    ck_assert_uint_eq(c->self_ns, 8 * 50000 + 10000);
    ck_assert_uint_eq(c->rss_calls, 9);
    ck_assert_uint_eq(c->own_calls, 9);
    ck_assert_uint_eq(c->raised, 8);
    ck_assert_uint_eq(c->uss_calls, 8);
    ck_assert_int_eq(c->uss_incl, PAGES(40));
    ck_assert_int_eq(c->rss_max_call, PAGES(3));
    expect(m, 2, 1, 2, 2, 2, 2);
    ck_assert_uint_eq(model_code(m, 2)->measured, 1);
    model_totals(m, &t);
    ck_assert_uint_eq(t.calls, 3);
    ck_assert_uint_eq(t.calls_estimated, 10);
    ck_assert_uint_eq(t.most_weight_log2, 3);
    ck_assert_int_eq(t.rss_attributed, PAGES(27));
    model_free(m);
}
END_TEST

/* A sampled call with all below it: self, recursion and releases are those of the
 * call, four times. f { g { f } } and then f { g }, where f releases what g took. */
START_TEST(test_weighted_subtree)
{
    struct mp_record r[] = {
        gen_call(1, 1, 3, 120, 10, 2, 2, 105), gen_call(2, 1, 2, 110, 30, 5, 5, 108), gen_call(1, 1, 1, 100, 100, 9, 9, 112),
        gen_call(2, 1, 2, 310, 30, 6, 6, 118), gen_call(1, 1, 1, 300, 100, 1, 7, 113),
    };
    struct model *m;
    struct gen g;

    gen_open(&g);
    for (size_t i = 0; i < 5; i++) {
        r[i].weight_log2 = 2;
        gen_call1(&g, r[i]);
    }
    m = play(&g);
    /* the inner f is within the outer one: incl 9 + 1; self 2 + 4 + 0 */
    expect(m, 1, 4 * 3, 4 * 10, 4 * 6, 4 * 16, 4 * (2 + 4 + 1));
    /* g: 3 of its own, then 6 of which f gave back 5 */
    expect(m, 2, 4 * 2, 4 * 11, 4 * 4, 4 * 11, 4 * 9);
    ck_assert_uint_eq(model_code(m, 1)->time_ns, 4 * 200000);
    ck_assert_uint_eq(model_code(m, 1)->self_ns, 4 * (10000 + 70000 + 70000));
    model_free(m);
}
END_TEST

/* Between sampled calls others ran that nobody saw: nothing is taken off. */
START_TEST(test_weighted_between)
{
    struct mp_record a = gen_call(2, 1, 1, 100, 50, 25, 25, 125), b = gen_call(4, 1, 1, 200, 50, 1, 1, 104);
    struct model *m;
    struct gen g;

    a.weight_log2 = _i == 0;
    b.weight_log2 = _i == 1;
    gen_open(&g);
    gen_call1(&g, a);
    gen_call1(&g, b);
    m = play(&g);
    ck_assert_int_eq(model_code(m, 2)->rss_self, _i == 0 ? PAGES(50) : _i == 1 ? PAGES(25) : PAGES(3));
    model_free(m);
}
END_TEST

int main(void)
{
    TCase *tc = tcase_create("model");

    tcase_add_test(tc, test_nesting);
    tcase_add_test(tc, test_lost_caller);
    tcase_add_test(tc, test_probe_in_callee);
    tcase_add_test(tc, test_recursion);
    tcase_add_loop_test(tc, test_threads, 0, 2);
    tcase_add_test(tc, test_release);
    tcase_add_loop_test(tc, test_release_between, 0, 2);
    tcase_add_test(tc, test_release_callees);
    tcase_add_test(tc, test_release_own);
    tcase_add_test(tc, test_release_threads);
    tcase_add_test(tc, test_foreign_growth);
    tcase_add_loop_test(tc, test_growth_bound, 0, 2);
    tcase_add_test(tc, test_overlap);
    tcase_add_test(tc, test_many_callees);
    tcase_add_test(tc, test_many_after_others);
    tcase_add_test(tc, test_unmeasured);
    tcase_add_test(tc, test_uss_and_raised);
    tcase_add_test(tc, test_ranking_order);
    tcase_add_test(tc, test_names);
    tcase_add_test(tc, test_thread_bound);
    tcase_add_test(tc, test_lines);
    tcase_add_test(tc, test_line_filtered_return);
    tcase_add_test(tc, test_line_first_visit);
    tcase_add_test(tc, test_line_bound);
    tcase_add_test(tc, test_saturation);
    tcase_add_test(tc, test_weights);
    tcase_add_test(tc, test_weighted_subtree);
    tcase_add_loop_test(tc, test_weighted_between, 0, 3);
    return gen_run(tc);
}
