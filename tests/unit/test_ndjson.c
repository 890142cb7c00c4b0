/* NDJSON: a golden file, numbers that doubles can't hold, absent figures. What a
 * validator thinks of it is tests/ndjson_check.py's business. */
#include "wire_gen.h"

#include <json-c/json.h>

#include "control.h"
#include "render/jline.h"

static void session(struct capture *c, struct render_meta meta, struct render_end end)
{
    struct render_options o = {.lines = true};
    struct model *m = model_new(GEN_PAGE);
    struct render *r;
    struct gen g;

    capture_open(c);
    o.out = c->file;
    r = render_ndjson_new(&o);
    gen_service(&g);
    ck_assert_int_eq(render_begin(r, &meta), 0);
    gen_play(&g, m, r);
    ck_assert_int_eq(render_finish(r, m, &end), 0);
    gen_free(&g);
    render_free(r);
    model_free(m);
    fflush(c->file);
}

START_TEST(test_golden)
{
    struct capture c;

    session(&c, gen_meta(), gen_end());
    golden_check(__FILE__, "session.ndjson", &c);
}
END_TEST

/* Residue, patterns, hostile strings, an offset unknown start. */
START_TEST(test_golden_residue)
{
    struct render_meta meta = gen_meta();
    struct render_end end = gen_end();
    struct capture c;

    meta.start_mono_ns = 0;
    meta.cmdline = "python3 \x1b[31m\n\"quoted\" \xff";
    meta.exe = NULL;
    meta.options.flags = MP_OPT_LINES | MP_OPT_NO_ROLLUP;
    meta.options.thread = 4260;
    meta.options.root.count = 2;
    strcpy(meta.options.root.glob[0], "handle_*");
    memset(meta.options.root.glob[1], 'x', MP_PATTERN_MAX); /* no NUL */
    end.clean = false;
    end.reason = "signal";
    end.residue = MP_RESIDUE_THUNK | MP_RESIDUE_TRACE;
    end.residue_text = "two pages\nand more";
    end.cost_pct = 0.0 / 1.0;
    session(&c, meta, end);
    golden_check(__FILE__, "residue.ndjson", &c);
}
END_TEST

START_TEST(test_tail)
{
    struct render_end end = gen_end();

    for (int missing = 0; missing < 2; missing++) {
        struct capture c;

        end.tail_missing = missing;
        session(&c, gen_meta(), end);
        capture_close(&c);
        ck_assert_int_eq(strstr(c.text, "\"lost\":37,\"tail_missing\":true,") != NULL, missing);
        free(c.text);
    }
}
END_TEST

START_TEST(test_golden_governed)
{
    struct render_meta meta = gen_meta();
    struct model *m = model_new(GEN_PAGE);
    struct render_options o = {0};
    struct render_end end;
    struct render *r;
    struct capture c;
    struct gen g;

    capture_open(&c);
    o.out = c.file;
    r = render_ndjson_new(&o);
    gen_governed(&g);
    meta.options.max_overhead_ppm = 20000;
    ck_assert_int_eq(render_begin(r, &meta), 0);
    gen_play(&g, m, r);
    end = gen_governed_end(m);
    ck_assert_int_eq(render_finish(r, m, &end), 0);
    golden_check(__FILE__, "governed.ndjson", &c);
    render_free(r);
    gen_free(&g);
    model_free(m);
}
END_TEST

/* Every line is one JSON object; meta is first, end is last. */
START_TEST(test_lines_parse)
{
    const char *first = NULL, *last = NULL;
    struct capture c;

    session(&c, gen_meta(), gen_end());
    for (char *line = strtok(c.text, "\n"); line; line = strtok(NULL, "\n")) {
        struct json_object *o = json_tokener_parse(line);

        ck_assert_msg(o && json_object_is_type(o, json_type_object), "%s", line);
        ck_assert_ptr_nonnull(json_object_object_get(o, "type"));
        json_object_put(o);
        first = first ? first : line;
        last = line;
    }
    ck_assert_ptr_eq(strstr(first, "{\"type\":\"meta\",\"v\":1,"), first);
    ck_assert_ptr_eq(strstr(last, "{\"type\":\"end\",\"reason\":\"duration\",\"clean\":true,"), last);
    capture_close(&c);
    free(c.text);
}
END_TEST

START_TEST(test_numbers)
{
    struct capture c;
    struct jline j;
    struct io io;

    capture_open(&c);
    io = (struct io){.file = c.file};
    jline_begin(&j, "t");
    jline_int(&j, "a", 1ll << 53);
    jline_int(&j, "b", (1ll << 53) + 1);
    jline_int(&j, "c", -(1ll << 53) - 1);
    jline_int(&j, "d", INT64_MIN);
    jline_uint(&j, "e", UINT64_MAX);
    jline_decimal(&j, "f", 1.5);
    jline_decimal(&j, "g", 1e300);
    jline_decimal(&j, "h", (double)__builtin_inf());
    jline_address(&j, "i", 0xdeadbeefull);
    jline_true(&j, "k", false);
    jline_foreign(&j, "l", "/\"\\\t");
    jline_foreign(&j, "m", NULL);
    ck_assert_int_eq(jline_write(&j, &io), 0);
    capture_close(&c);
    ck_assert_str_eq(c.text, "{\"type\":\"t\",\"a\":9007199254740992,\"b\":\"9007199254740993\","
                             "\"c\":\"-9007199254740993\",\"d\":\"-9223372036854775808\","
                             "\"e\":\"18446744073709551615\",\"f\":1.500,\"g\":1000000000000000.000,"
                             "\"i\":\"0xdeadbeef\",\"l\":\"/\\\"\\\\\xef\xbf\xbd\",\"m\":\"\"}\n");
    free(c.text);
}
END_TEST

/* Not measured is absent. */
START_TEST(test_absent)
{
    static const char *const keys[] = {"rss_delta_bytes", "rss_bytes", "own_bytes", "uss_bytes", "uss_delta_bytes",
                                       "swap_bytes", "peak_bytes", "function", "tid", "raised"};
    struct mp_record r = gen_call(7, 3, 1, 10, 5, 9, 9, 9);
    struct render_options o = {.lines = true};
    struct model *m = model_new(GEN_PAGE);
    struct stream_event ev = {.type = MP_MSG_RECORDS, .records = {&r, 1}};
    struct capture c;
    struct render *out;

    r.flags = 0;
    capture_open(&c);
    o.out = c.file;
    out = render_ndjson_new(&o);
    ck_assert_int_eq(render_event(out, m, &ev), 0);
    capture_close(&c);
    for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++)
        ck_assert_msg(!strstr(c.text, keys[i]), "%s in %s", keys[i], c.text);
    ck_assert_ptr_nonnull(strstr(c.text, "\"code\":7"));
    free(c.text);
    render_free(out);
    model_free(m);
}
END_TEST

int main(void)
{
    TCase *tc = tcase_create("ndjson");

    tcase_add_test(tc, test_golden);
    tcase_add_test(tc, test_tail);
    tcase_add_test(tc, test_golden_residue);
    tcase_add_test(tc, test_golden_governed);
    tcase_add_test(tc, test_lines_parse);
    tcase_add_test(tc, test_numbers);
    tcase_add_test(tc, test_absent);
    return gen_run(tc);
}
