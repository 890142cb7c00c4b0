/* The original's table. The golden file was made by the original's own
 * format_trace_result from the same figures (golden/mempulse.py). */
#include "wire_gen.h"

static struct mp_record visit(uint32_t code, uint64_t at_us, uint32_t line, uint64_t uss, uint64_t swap, uint64_t peak)
{
    struct mp_record r = gen_line(code, 1, 1, at_us, line, 1000, 0);

    r.flags |= MP_REC_HAS_USS | MP_REC_HAS_PEAK;
    r.uss_bytes = uss;
    r.swap_bytes = swap;
    r.peak_bytes = peak;
    return r;
}

/* Sent out of order, as two threads' rings are; every line visited again later. */
static void send_lines(struct gen *g)
{
    struct mp_record again, r[6] = {
        visit(2, 40, 29, 26525696, 0, 28057600),
        visit(1, 10, 53, 26525696, 0, 28057600),
        visit(3, 60, 1234567, 1234567890123, 4096, 836354048),
        visit(2, 50, 31, 115335168, 1048576, 117530624),
        visit(4, 70, 7, 999, 0, 1000),
        visit(5, 80, 3, 0, 0, 12),
    };

    gen_records(g, r, 6);
    for (int i = 0; i < 6; i++) {
        again = r[i];
        again.time_ns += 1000000;
        again.uss_bytes = again.peak_bytes = 77;
        gen_call1(g, again);
    }
}

START_TEST(test_golden)
{
    struct model *m = model_new(GEN_PAGE);
    struct capture c;
    struct gen g;

    gen_open(&g);
    gen_code(&g, 1, 50, "run_mempulse_c", "benchmark.py", "");
    gen_code(&g, 2, 28, "workload.<locals>.inner", "/a/path/of/exactly/sixty-four/characters/with/its/line/n/b.py", "");
    gen_code(&g, 3, 9, "Outer.a_method_name_that_is_longer_than_the_column",
             "/usr/lib/python3/dist-packages/package/subpackage/and/further/down/module.py", "");
    gen_code(&g, 4, 9, "<lambda>", "/srv/\xe6\xb8\xac\xe5\xae\x9a/caf\xc3\xa9.py", "");
    gen_code(&g, 5, 1, "f.<locals>.<listcomp>", "<string>", "");
    send_lines(&g);
    gen_play(&g, m, NULL);
    capture_open(&c);
    ck_assert_int_eq(render_mempulse(c.file, m), 0);
    golden_check(__FILE__, "mempulse.txt", &c);
    gen_free(&g);
    model_free(m);
}
END_TEST

/* Never 0 for what was not measured. */
START_TEST(test_unmeasured)
{
    struct model *m = model_new(GEN_PAGE);
    struct capture c;
    struct gen g;

    gen_open(&g);
    gen_code(&g, 1, 1, "f", "f.py", "");
    gen_call1(&g, gen_line(1, 1, 1, 10, 2, 1000, 0));
    gen_play(&g, m, NULL);
    capture_open(&c);
    ck_assert_int_eq(render_mempulse(c.file, m), 0);
    capture_close(&c);
    ck_assert_ptr_nonnull(strstr(c.text, "              -1               -1               -1\n\n"));
    free(c.text);
    gen_free(&g);
    model_free(m);
}
END_TEST

int main(void)
{
    TCase *tc = tcase_create("mempulse");

    tcase_add_test(tc, test_golden);
    tcase_add_test(tc, test_unmeasured);
    return gen_run(tc);
}
