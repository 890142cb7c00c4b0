/* The text stream: golden files, widths, hostile names, a reader that left. */
#include "wire_gen.h"

#include <signal.h>
#include <unistd.h>

#include "base/text.h"
#include "base/utf8.h"

static void text_session(struct capture *c, bool color, unsigned width, struct render_meta meta)
{
    struct render_options o = {.color = color, .lines = true, .width = width};
    struct model *m = model_new(GEN_PAGE);
    struct render_end end = gen_end();
    struct render *r;
    struct gen g;

    capture_open(c);
    o.out = c->file;
    r = render_text_new(&o);
    gen_service(&g);
    ck_assert_int_eq(render_begin(r, &meta), 0);
    gen_play(&g, m, r);
    ck_assert_int_eq(render_finish(r, m, &end), 0);
    gen_free(&g);
    render_free(r);
    model_free(m);
    fflush(c->file);
}

START_TEST(test_stream_golden)
{
    struct capture c;

    text_session(&c, false, 0, gen_meta());
    golden_check(__FILE__, "text.txt", &c);
}
END_TEST

START_TEST(test_color_golden)
{
    struct render_meta meta = gen_meta();
    struct capture c;

    meta.selftest.flags = MP_SELF_STATM | MP_SELF_THP | MP_SELF_SYNC;
    meta.selftest.statm_error = -3;
    meta.selftest.minflt_error = 2;
    meta.options.root.count = 1;
    text_session(&c, true, 120, meta);
    golden_check(__FILE__, "text-color-120.txt", &c);
}
END_TEST

/* The governor's words, and calls that stand for others. */
START_TEST(test_governed_golden)
{
    struct render_meta meta = gen_meta();
    struct render_options o = {0};
    struct model *m = model_new(GEN_PAGE);
    struct render_end end;
    struct capture c;
    struct gen g;

    capture_open(&c);
    o.out = c.file;
    meta.options.max_overhead_ppm = 20000;
    {
        struct render *r = render_text_new(&o);

        gen_governed(&g);
        ck_assert_int_eq(render_begin(r, &meta), 0);
        gen_play(&g, m, r);
        end = gen_governed_end(m);
        ck_assert_int_eq(render_finish(r, m, &end), 0);
        render_free(r);
    }
    ck_assert_int_eq(render_ranking(c.file, m, false, 0), 0);
    ck_assert_int_eq(render_verdict(c.file, 4242, &end), 0);
    golden_check(__FILE__, "governed.txt", &c);
    gen_free(&g);
    model_free(m);
}
END_TEST

/* No record line is wider than the terminal; each still starts with its fixed columns. */
START_TEST(test_width)
{
    static const unsigned widths[] = {20, 60, 80, 100, 119};
    struct capture c;

    text_session(&c, false, widths[_i], gen_meta());
    for (char *line = strtok(c.text, "\n"); line; line = strtok(NULL, "\n")) {
        if (line[0] == '#' && line[1] == ' ')
            continue;
        if (widths[_i] >= 80)
            ck_assert_msg(line[0] == '#' || strspn(strrchr(line, ':'), ":0123456789") == strlen(strrchr(line, ':')),
                          "%s", line);
        ck_assert_msg(utf8_width(line) <= widths[_i], "%u columns of %u: %s", utf8_width(line), widths[_i], line);
    }
    capture_close(&c);
    free(c.text);
}
END_TEST

/* Nothing that a terminal would obey comes through. */
START_TEST(test_hostile_names)
{
    static const char bad[] = "a\x1b]0;owned\x07\n\r\t\x9b" "31m\xe2\x80\xae" "fdp\xff\xc0\xafz\xed\xa0\x80";
    struct render_options o = {.width = 0};
    struct render_meta meta = gen_meta();
    struct model *m = model_new(GEN_PAGE);
    struct capture c;
    struct render *r;
    struct gen g;

    capture_open(&c);
    o.out = c.file;
    r = render_text_new(&o);
    gen_open(&g);
    gen_code(&g, 1, 1, bad, bad, bad);
    gen_thread(&g, 1, 7, 0, bad);
    gen_call1(&g, gen_call(1, 1, 1, 10, 5, 1, 1, 100));
    gen_note(&g, 77, bad);
    meta.exe = bad;
    ck_assert_int_eq(render_begin(r, &meta), 0);
    gen_play(&g, m, r);
    ck_assert_int_eq(render_ranking(c.file, m, false, 0), 0);
    ck_assert_int_eq(render_mempulse(c.file, m), 0);
    fflush(c.file);
    for (size_t i = 0; i < c.len;) {
        uint32_t cp;
        size_t n = utf8_decode(c.text + i, c.len - i, &cp);

        ck_assert_msg(cp == '\n' || !utf8_is_unsafe(cp), "U+%04X at %zu", cp, i);
        ck_assert_msg(cp != UTF8_BAD || n == 3, "invalid byte at %zu", i);
        i += n;
    }
    gen_free(&g);
    render_free(r);
    model_free(m);
    capture_close(&c);
    free(c.text);
}
END_TEST

/* Records that name what was never announced are shown, not trusted. */
START_TEST(test_unknown_ids)
{
    struct render_options o = {.width = 0};
    struct render_meta meta = gen_meta();
    struct model *m = model_new(GEN_PAGE);
    struct capture c;
    struct render *r;
    struct gen g;

    capture_open(&c);
    o.out = c.file;
    r = render_text_new(&o);
    gen_open(&g);
    gen_call1(&g, gen_call(0, 9, 1, 10, 5, 1, 1, 100));
    gen_call1(&g, gen_call(31, 9, 1, 20, 5, 1, 1, 100));
    ck_assert_int_eq(render_begin(r, &meta), 0);
    gen_play(&g, m, r);
    fflush(c.file);
    ck_assert_ptr_nonnull(strstr(c.text, "(further functions)"));
    ck_assert_ptr_nonnull(strstr(c.text, "?:0"));
    gen_free(&g);
    render_free(r);
    model_free(m);
    capture_close(&c);
    free(c.text);
}
END_TEST

/* A reader that left: the error is the stream's, and it stays. */
START_TEST(test_epipe)
{
    struct render_meta meta = gen_meta();
    struct render_end end = gen_end();
    struct model *m = model_new(GEN_PAGE);
    struct render_options o = {.width = 0};
    struct render *r;
    int fd[2];

    signal(SIGPIPE, SIG_IGN);
    ck_assert_int_eq(pipe(fd), 0);
    close(fd[0]);
    o.out = fdopen(fd[1], "w");
    setvbuf(o.out, NULL, _IONBF, 0);
    r = _i ? render_ndjson_new(&o) : render_text_new(&o);
    ck_assert_int_eq(render_begin(r, &meta), -EPIPE);
    ck_assert_int_eq(render_finish(r, m, &end), -EPIPE);
    ck_assert_int_eq(render_ranking(o.out, m, false, 0), -EPIPE);
    ck_assert_int_eq(render_mempulse(o.out, m), -EPIPE);
    ck_assert_int_eq(render_verdict(o.out, 1, &end), -EPIPE);
    render_free(r);
    model_free(m);
    fclose(o.out);
}
END_TEST

START_TEST(test_fit)
{
    char b[64];

    ck_assert_str_eq(text_fit(b, sizeof(b), "short", 10, TEXT_KEEP_ENDS), "short");
    ck_assert_str_eq(text_fit(b, sizeof(b), "abcdefghij", 6, TEXT_KEEP_ENDS), "ab..ij");
    ck_assert_str_eq(text_fit(b, sizeof(b), "abcdefghij", 6, TEXT_KEEP_TAIL), "..ghij");
    ck_assert_str_eq(text_fit(b, sizeof(b), "abcdefghij", 2, TEXT_KEEP_TAIL), "ab");
    ck_assert_str_eq(text_fit(b, sizeof(b), "abcdefghij", 0, TEXT_KEEP_TAIL), "abcdefghij");
    ck_assert_str_eq(text_fit(b, 8, "abcdefghij", 0, TEXT_KEEP_TAIL), "..fghij");
    ck_assert_str_eq(text_fit(b, sizeof(b), "\xe6\xb8\xac\xe6\xb8\xac\xe6\xb8\xac", 5, TEXT_KEEP_TAIL),
                     "..\xe6\xb8\xac");
    ck_assert_uint_eq(utf8_width("\xe6\xb8\xac" "e\xcc\x81"), 3);
    ck_assert_uint_eq(utf8_count("\xe6\xb8\xac" "e\xcc\x81"), 3);
}
END_TEST

START_TEST(test_sanitise)
{
    static const struct {
        const char *in, *out;
    } rows[] = {
        {"plain \xc3\xa9 \xf0\x9f\x98\x80", "plain \xc3\xa9 \xf0\x9f\x98\x80"},
        {"\x1b[0m", "\xef\xbf\xbd[0m"},
        {"a\x7f" "b", "a\xef\xbf\xbd" "b"},
        {"\xc2\x9b", "\xef\xbf\xbd"},                                 /* C1 CSI, well encoded */
        {"\xc0\x80", "\xef\xbf\xbd\xef\xbf\xbd"},                     /* overlong NUL */
        {"\xe0\x80\xaf", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"},     /* overlong slash */
        {"\xf5\x80\x80\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"},
        {"\xe2\x80\xae", "\xef\xbf\xbd"},                             /* right-to-left override */
        {"\xe2\x81\xa6", "\xef\xbf\xbd"},                             /* isolate */
        {"\xe2\x80\x8b", "\xef\xbf\xbd"},                             /* zero width space */
        {"\xe6\xb8", "\xef\xbf\xbd\xef\xbf\xbd"},                     /* cut off */
    };
    char *s = utf8_sanitise(rows[_i].in, strlen(rows[_i].in)), small[5];

    ck_assert_str_eq(s, rows[_i].out);
    free(s);
    utf8_sanitise_into(small, sizeof(small), rows[_i].in, strlen(rows[_i].in));
    ck_assert_uint_lt(strlen(small), sizeof(small));
    ck_assert_int_eq(memcmp(small, rows[_i].out, strlen(small)), 0);
}
END_TEST

int main(void)
{
    TCase *tc = tcase_create("text");

    tcase_add_test(tc, test_stream_golden);
    tcase_add_test(tc, test_color_golden);
    tcase_add_test(tc, test_governed_golden);
    tcase_add_loop_test(tc, test_width, 0, 5);
    tcase_add_test(tc, test_hostile_names);
    tcase_add_test(tc, test_unknown_ids);
    tcase_add_loop_test(tc, test_epipe, 0, 2);
    tcase_add_test(tc, test_fit);
    tcase_add_loop_test(tc, test_sanitise, 0, 11);
    return gen_run(tc);
}
