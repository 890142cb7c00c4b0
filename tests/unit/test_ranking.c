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
        {"duration", true, "", "detached from 4242: 11 records, 37 lost, hook cost 0.43%, paused 184 us; "
                               "nothing left behind\n"},
        {"target_exited", true, NULL, "process 4242 ended: 11 records, 37 lost, hook cost 0.43%, paused 184 us; "
                                      "nothing left behind\n"},
        {"target_execed", true, NULL, "process 4242 ran exec: 11 records, 37 lost, hook cost 0.43%, paused 184 us; "
                                      "nothing left behind\n"},
        {"signal", false, "two pages\nand\x1b[2J more\n", "detached from 4242: 11 records, 37 lost, hook cost 0.43%, "
                          "paused 184 us; LEFT BEHIND:\n  two pages\n  and\xef\xbf\xbd[2J more\n"},
        {"signal", false, NULL, "detached from 4242: 11 records, 37 lost, hook cost 0.43%, paused 184 us; "
                                "LEFT BEHIND:\n  (residue 0x1)\n"},
    };
    struct render_end end = gen_end();
    struct capture c;

    end.reason = rows[_i].reason;
    end.clean = rows[_i].clean;
    end.residue_text = rows[_i].residue;
    end.residue = end.clean ? 0 : MP_RESIDUE_THUNK;
    capture_open(&c);
    ck_assert_int_eq(render_verdict(c.file, 4242, &end), 0);
    capture_close(&c);
    ck_assert_str_eq(c.text, rows[_i].want);
    free(c.text);
}
END_TEST

int main(void)
{
    TCase *tc = tcase_create("ranking");

    tcase_add_loop_test(tc, test_golden, 0, 4);
    tcase_add_test(tc, test_empty);
    tcase_add_loop_test(tc, test_many, 0, 2);
    tcase_add_loop_test(tc, test_fits_terminal, 0, 80);
    tcase_add_loop_test(tc, test_verdict, 0, 5);
    return gen_run(tc);
}
