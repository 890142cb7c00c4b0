/* The ranking and the verdict: golden files. */
#include "wire_gen.h"

#include "base/utf8.h"
#include "control.h"

static struct model *service(void)
{
    struct model *m = model_new(GEN_PAGE);
    struct gen g;

    gen_service(&g);
    gen_play(&g, m, NULL);
    gen_free(&g);
    return m;
}

START_TEST(test_golden)
{
    static const struct {
        const char *name;
        unsigned width;
        bool color;
    } rows[] = {{"ranking.txt", 0, false}, {"ranking-80.txt", 80, false}, {"ranking-100.txt", 100, false},
                {"ranking-color-120.txt", 120, true}};
    struct model *m = service();
    struct capture c;

    capture_open(&c);
    ck_assert_int_eq(render_ranking(c.file, m, rows[_i].color, rows[_i].width), 0);
    golden_check(__FILE__, rows[_i].name, &c);
    model_free(m);
}
END_TEST

START_TEST(test_empty)
{
    struct model *m = model_new(GEN_PAGE);
    struct capture c;

    capture_open(&c);
    ck_assert_int_eq(render_ranking(c.file, m, false, 80), 0);
    golden_check(__FILE__, "ranking-empty.txt", &c);
    model_free(m);
}
END_TEST

/* A terminal gets a bounded table whose rows still add up; a file gets all. */
START_TEST(test_many)
{
    struct model *m = model_new(GEN_PAGE);
    struct capture c;
    unsigned lines = 0;
    struct gen g;

    gen_open(&g);
    for (uint32_t i = 1; i <= 100; i++) {
        gen_code(&g, i, i, "some_function", "file.py", "");
        gen_call1(&g, gen_call(i, 1, 1, i * 100, 50, (int32_t)i, i, 1000 + i));
    }
    gen_play(&g, m, NULL);
    capture_open(&c);
    ck_assert_int_eq(render_ranking(c.file, m, false, _i ? 140 : 0), 0);
    fflush(c.file);
    for (size_t i = 0; i < c.len; i++)
        lines += !strncmp(c.text + i, "\nsome_function", 14);
    ck_assert_uint_eq(lines, _i ? RENDER_RANK_ROWS : 100);
    ck_assert_int_eq(strstr(c.text, "(60 more functions)") != NULL, _i);
    capture_close(&c);
    free(c.text);
    gen_free(&g);
    model_free(m);
}
END_TEST

START_TEST(test_fits_terminal)
{
    struct model *m = service();
    unsigned width = 72 + (unsigned)_i;
    struct capture c;

    capture_open(&c);
    ck_assert_int_eq(render_ranking(c.file, m, false, width), 0);
    fflush(c.file);
    *strstr(c.text, "Process RSS") = 0;
    for (char *line = strtok(c.text, "\n"); line; line = strtok(NULL, "\n"))
        ck_assert_msg(utf8_width(line) <= width, "%u of %u: %s", utf8_width(line), width, line);
    capture_close(&c);
    free(c.text);
    model_free(m);
}
END_TEST

START_TEST(test_verdict)
{
    static const struct {
        const char *reason;
        bool clean;
        const char *residue, *want;
    } rows[] = {
        {"duration", true, "", "detached from 4242: 11 records, 37 lost, hook cost 0.43% of a CPU, paused 184 us; "
                               "nothing left behind\n"},
        {"target_exited", true, NULL, "process 4242 ended: 11 records, 37 lost, hook cost 0.43% of a CPU, paused 184 us; "
                                      "nothing left behind\n"},
        {"target_execed", true, NULL, "process 4242 ran exec: 11 records, 37 lost, hook cost 0.43% of a CPU, paused 184 us; "
                                      "nothing left behind\n"},
        {"descriptors_closed", true, NULL, "process 4242 closed or replaced the session's descriptors, so the agent left: "
                                           "11 records, 37 lost, hook cost 0.43% of a CPU, paused 184 us; "
                                           "nothing left behind\n"},
        {"signal", false, "two pages\nand\x1b[2J more\n", "detached from 4242: 11 records, 37 lost, hook cost 0.43% of a CPU, "
                          "paused 184 us; LEFT BEHIND:\n  two pages\n  and\xef\xbf\xbd[2J more\n"},
        {"more stops", true, NULL, "detached from 4242: 11 records, 37 lost, hook cost 0.43% of a CPU, "
                                   "paused 184 us (12 stops, 1405 us in all); nothing left behind\n"},
        {"unseen", false, "out of memory", "detached from 4242: 11 records, 37 lost, hook cost 0.43% of a CPU, "
                                           "paused 184 us; what is LEFT BEHIND could not be looked at:\n  out of memory\n"},
        {"signal", false, NULL, "detached from 4242: 11 records, 37 lost, hook cost 0.43% of a CPU, paused 184 us; "
                                "LEFT BEHIND:\n  (residue 0x1)\n"},
    };
    struct render_end end = gen_end();
    struct capture c;

    end.reason = rows[_i].reason;
    end.clean = rows[_i].clean;
    end.residue_text = rows[_i].residue;
    end.residue = end.clean ? 0 : MP_RESIDUE_THUNK;
    end.unseen = !strcmp(end.reason, "unseen");
    if (!strcmp(end.reason, "more stops")) {
        end.attempts = 12;
        end.pause_sum_ns = 1404600;
    }
    capture_open(&c);
    ck_assert_int_eq(render_verdict(c.file, 4242, &end), 0);
    capture_close(&c);
    ck_assert_str_eq(c.text, rows[_i].want);
    free(c.text);
}
END_TEST

/* A target that ended takes with it what its rings held. */
START_TEST(test_verdict_tail)
{
    struct render_end end = gen_end();
    struct capture c;

    end.reason = "target_exited";
    end.tail_missing = true;
    capture_open(&c);
    ck_assert_int_eq(render_verdict(c.file, 4242, &end), 0);
    capture_close(&c);
    ck_assert_str_eq(c.text, "process 4242 ended: 11 records, 37 lost, hook cost 0.43% of a CPU, paused 184 us; what it did "
                             "in its last moments (up to 0.1 s) is not in; nothing left behind\n");
    free(c.text);
}
END_TEST

/* The cost as part of the target's own work, what the hook costs by its presence, what was given up. */
START_TEST(test_verdict_cost)
{
    static const struct {
        struct mp_account account;
        uint32_t goal;
        double overhead;
        const char *want;
    } rows[] = {
        {{0}, 20000, -1, "hook cost 0.43% of a CPU, paused"},
        {{.work_ns = 1000000000, .stage_ns = {9}}, 20000, 1.234, "hook cost 1.23% (0.43% of a CPU), paused"},
        {{.work_ns = 10000000}, 20000, 120, "hook cost 120.00% (0.43% of a CPU), paused"},
        {{.work_ns = 9999999, .floor_ns = 9999999}, 20000, 120, "lost, hook cost 12.0 ms, paused"},
        {{.work_ns = 1, .floor_ns = 1}, 20000, 38205100, "lost, hook cost 382 us, paused"},
        {{.work_ns = 1000000000, .floor_ns = 80000000}, 0, 9, "hook cost 9.00% (0.43% of a CPU), 8.00% by its presence alone, paused"},
        {{.work_ns = 1000000000, .stage_ns = {9, 1200000, 4200000000, 12000000000, 1000000000}, .least_depth = 1,
          .most_sample_log2 = 6},
         5000, 3.1,
         "hook cost 3.10% (0.43% of a CPU) (given up for --max-overhead 0.5%: smaps_rollup more rarely for 1.20 ms, "
         "depth down to 1 of 3 for 4.20 s, 1 call in up to 64 for 12.0 s, nothing traced for 1.00 s), paused"},
        {{.work_ns = 1000000000, .stage_ns = {0, 0, 0, 0, 2000000}}, 100, 3.1,
         "hook cost 3.10% (0.43% of a CPU) (given up for --max-overhead 0.01%: nothing traced for 2.00 ms), paused"},
        {{.work_ns = 1000000000, .stage_ns = {0, 0, 0, 0, 2000000}}, 0, 3.1, "hook cost 3.10% (0.43% of a CPU), paused"},
    };
    struct render_end end = gen_end();
    struct capture c;

    end.account = rows[_i].account;
    end.max_overhead_ppm = rows[_i].goal;
    end.overhead_pct = rows[_i].overhead;
    end.hook_ns = rows[_i].overhead > 0 ? (uint64_t)(rows[_i].overhead * (double)end.account.work_ns / 100 + 0.5) : 0;
    end.depth = 3;
    capture_open(&c);
    ck_assert_int_eq(render_verdict(c.file, 4242, &end), 0);
    capture_close(&c);
    ck_assert_ptr_nonnull(strstr(c.text, rows[_i].want));
    free(c.text);
}
END_TEST

/* What is in force, in words; from `status` every word of it may be foreign. */
START_TEST(test_in_force)
{
    static const struct {
        struct mp_govern g;
        uint32_t flags;
        const char *want;
    } rows[] = {
        {{.stage = MP_STAGE_FULL, .depth = 3, .rollup_ppm = 5000}, 0, "all that was asked for"},
        {{.stage = MP_STAGE_ROLLUP, .depth = 3, .rollup_ppm = 1250}, 0, "smaps_rollup at most 0.125% of the time"},
        {{.stage = MP_STAGE_DEPTH, .depth = 2, .rollup_ppm = 78}, MP_OPT_NO_ROLLUP, "depth 2 of 3"},
        {{.stage = MP_STAGE_SAMPLED, .depth = 1, .rollup_ppm = 78, .sample_log2 = 10}, 0,
         "smaps_rollup at most 0.0078% of the time, depth 1 of 3, 1 call in 1024"},
        {{.stage = MP_STAGE_QUIET, .depth = 1}, 0, "nothing is traced"},
        {{.stage = 77, .depth = UINT32_MAX, .rollup_ppm = UINT32_MAX, .sample_log2 = 4000}, 0, "all that was asked for"},
    };
    struct mp_options asked = {.depth = 3, .rollup_budget_ppm = 5000, .flags = rows[_i].flags};
    char buf[RENDER_WORDS];

    ck_assert_str_eq(render_in_force(buf, sizeof(buf), &rows[_i].g, &asked), rows[_i].want);
    ck_assert_str_eq(render_stage_name(77), "unknown");
    for (size_t len = 1; len < 80; len++) { /* a small buffer cuts */
        render_in_force(buf, len, &rows[_i].g, &asked);
        ck_assert_uint_lt(strlen(buf), len);
    }
}
END_TEST

int main(void)
{
    TCase *tc = tcase_create("ranking");

    tcase_add_loop_test(tc, test_golden, 0, 4);
    tcase_add_test(tc, test_empty);
    tcase_add_loop_test(tc, test_many, 0, 2);
    tcase_add_loop_test(tc, test_fits_terminal, 0, 80);
    tcase_add_loop_test(tc, test_verdict, 0, 8);
    tcase_add_loop_test(tc, test_verdict_cost, 0, 9);
    tcase_add_test(tc, test_verdict_tail);
    tcase_add_loop_test(tc, test_in_force, 0, 6);
    return gen_run(tc);
}
