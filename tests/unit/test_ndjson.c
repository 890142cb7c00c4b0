/* NDJSON: a golden file, numbers that doubles can't hold, absent figures. What a
 * validator thinks of it is tests/ndjson_check.py's business. */
#include "wire_gen.h"

#include <json-c/json.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

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

/* --- what is rendered once and copied ------------------------------------------ */

struct bench {
    struct capture c;
    struct model *m;
    struct render *out;
};

static void bench_open(struct bench *b)
{
    struct render_options o = {0};

    capture_open(&b->c);
    o.out = b->c.file;
    b->m = model_new(GEN_PAGE);
    b->out = render_ndjson_new(&o);
}

static void bench_close(struct bench *b)
{
    capture_close(&b->c);
    free(b->c.text);
    render_free(b->out);
    model_free(b->m);
}

/* The last line of what came out of one record. */
static const char *bench_line(struct bench *b, struct mp_record r)
{
    struct stream_event ev = {.type = MP_MSG_RECORDS, .records = {&r, 1}};
    char *end;

    ck_assert_int_eq(model_event(b->m, &ev), 0);
    ck_assert_int_eq(render_event(b->out, b->m, &ev), 0);
    fflush(b->c.file);
    end = b->c.text + b->c.len - 1;
    ck_assert_int_eq(*end, '\n');
    while (end > b->c.text && end[-1] != '\n')
        end--;
    return end;
}

static void bench_has(struct bench *b, struct mp_record r, const char *part)
{
    const char *line = bench_line(b, r);

    ck_assert_msg(strstr(line, part) != NULL, "%s is not in %s", part, line);
}

/* By the model alone: a renderer may not have to be told. */
static void bench_code(struct bench *b, uint32_t id, uint32_t line, const char *name)
{
    struct stream_event ev = {.type = MP_MSG_CODE, .code = {
        .head = {.id = id, .firstlineno = line, .name_len = (uint16_t)strlen(name), .file_len = 4}, name, "a.py", ""}};

    ck_assert_int_eq(model_event(b->m, &ev), 0);
}

static void bench_thread(struct bench *b, uint32_t id, int32_t tid, const char *name)
{
    struct stream_event ev = {.type = MP_MSG_THREAD, .thread = {
        .head = {.id = id, .tid = tid, .name_len = (uint16_t)strlen(name)}, name}};

    ck_assert_int_eq(model_event(b->m, &ev), 0);
}

static struct mp_record bench_record(uint32_t code, uint32_t thread)
{
    return gen_call(code, thread, 1, 10, 5, 0, 0, 9);
}

START_TEST(test_code_named_late)
{
    struct mp_record line = gen_line(7, 1, 2, 10, 43, 9, 0);
    struct bench b;

    bench_open(&b);
    bench_has(&b, bench_record(7, 1), ",\"depth\":1,\"code\":7,\"dur_ns\":5000,");
    bench_has(&b, line, ",\"depth\":2,\"code\":7,\"rss_bytes\":");
    bench_has(&b, bench_record(7 + 1024, 1 + 256), ",\"thread_id\":257,\"depth\":1,\"code\":1031,\"dur_ns\":");
    bench_has(&b, bench_record(7, 1), ",\"thread_id\":1,\"depth\":1,\"code\":7,\"dur_ns\":5000,");
    bench_code(&b, 7, 41, "late \"f\"");
    bench_has(&b, bench_record(7, 1), ",\"code\":7,\"function\":\"late \\\"f\\\"\",\"file\":\"a.py\",\"line\":41,\"dur_ns\":");
    bench_has(&b, line, ",\"function\":\"late \\\"f\\\"\",\"file\":\"a.py\",\"line\":43,\"def_line\":41,\"rss_bytes\":");
    line.line = 0;
    bench_has(&b, line, ",\"file\":\"a.py\",\"line\":41,\"rss_bytes\":");
    bench_code(&b, 7, 55, "other"); /* ids never return: the first name stays */
    bench_has(&b, bench_record(7, 1), "late");
    bench_has(&b, bench_record(0, 1), ",\"code\":0,\"dur_ns\":");
    bench_close(&b);
}
END_TEST

START_TEST(test_thread_renamed)
{
    struct bench b;

    bench_open(&b);
    bench_has(&b, bench_record(1, 3), ",\"thread_id\":3,\"depth\":");
    bench_thread(&b, 3, 4260, "python3");
    bench_has(&b, bench_record(1, 3), ",\"thread_id\":3,\"tid\":4260,\"thread\":\"python3\",\"depth\":");
    bench_thread(&b, 3, 4260, "worker-1");
    bench_has(&b, bench_record(1, 3), ",\"thread_id\":3,\"tid\":4260,\"thread\":\"worker-1\",\"depth\":");
    bench_thread(&b, 3, 4261, "worker-1");
    bench_has(&b, bench_record(1, 3), ",\"tid\":4261,\"thread\":\"worker-1\",\"depth\":");
    bench_close(&b);
}
END_TEST

/* More ids than are kept, in turn: each has its own name every time. */
START_TEST(test_many_names)
{
    struct bench b;
    char name[32], want[64];

    bench_open(&b);
    for (uint32_t i = 1; i <= 3000; i++) {
        snprintf(name, sizeof(name), "name_%u", i);
        bench_code(&b, i, i, name);
        if (i <= MODEL_THREADS_MAX)
            bench_thread(&b, i, (int32_t)i, name);
    }
    for (uint32_t round = 0; round < 2; round++)
        for (uint32_t i = 1; i <= 3000; i++) {
            uint32_t thread = 1 + i % MODEL_THREADS_MAX, code = i % 2 ? i : i / 2;

            snprintf(want, sizeof(want), "\"tid\":%u,\"thread\":\"name_%u\"", thread, thread);
            bench_has(&b, bench_record(code, thread), want);
            snprintf(want, sizeof(want), "\"code\":%u,\"function\":\"name_%u\"", code, code);
            bench_has(&b, bench_record(code, thread), want);
        }
    bench_close(&b);
}
END_TEST

/* The same renderer, another model with the same ids. */
START_TEST(test_other_model)
{
    struct bench b;

    bench_open(&b);
    bench_code(&b, 7, 41, "first");
    bench_thread(&b, 1, 4242, "first");
    bench_has(&b, bench_record(7, 1), "\"thread\":\"first\",\"depth\":1,\"code\":7,\"function\":\"first\"");
    model_free(b.m);
    b.m = model_new(GEN_PAGE);
    bench_code(&b, 7, 41, "second");
    bench_thread(&b, 1, 4242, "second");
    bench_has(&b, bench_record(7, 1), "\"thread\":\"second\",\"depth\":1,\"code\":7,\"function\":\"second\"");
    bench_close(&b);
}
END_TEST

/* --- what a record costs --------------------------------------------------------
 *
 * Instructions are counted, not timed: the launcher's part from the decoded frame to the
 * output's buffer, stepped through. 1600 is what gcc 12 makes of it; the limit leaves room
 * for others, but not for a printf in each record. */

#define COST_RECORDS 256
#define COST_MAX 2600 /* instructions a record */

static void cost_child(struct bench *b, struct mp_record *r)
{
    struct stream_event ev = {.type = MP_MSG_RECORDS, .records = {r, COST_RECORDS}};

    for (int round = 0; round < 3; round++) { /* the last one is counted */
        if (round == 2)
            raise(SIGSTOP);
        if (model_event(b->m, &ev) || render_event(b->out, b->m, &ev))
            _exit(1);
    }
    raise(SIGSTOP);
    _exit(0);
}

/* Steps of pid up to its next stop; 0: it ended. */
static unsigned long cost_steps(pid_t pid)
{
    unsigned long steps = 0;
    int status;

    for (;; steps++) {
        if (ptrace(PTRACE_SINGLESTEP, pid, 0, 0) || waitpid(pid, &status, 0) != pid || !WIFSTOPPED(status))
            return 0;
        if (WSTOPSIG(status) != SIGTRAP)
            return steps;
    }
}

START_TEST(test_cost)
{
#if defined(__OPTIMIZE__) && !defined(__SANITIZE_ADDRESS__)
    struct mp_record r[COST_RECORDS];
    struct bench b;
    unsigned long steps;
    int status;
    pid_t pid;

    bench_open(&b);
    bench_code(&b, 7, 41, "Service.handle_request");
    bench_thread(&b, 1, 4242, "MainThread");
    for (unsigned i = 0; i < COST_RECORDS; i++)
        r[i] = gen_call(7, 1, 1, 10 * i, 5, 0, 0, 2500);
    pid = fork();
    ck_assert_int_ge(pid, 0);
    if (!pid) {
        if (ptrace(PTRACE_TRACEME, 0, 0, 0))
            _exit(2);
        cost_child(&b, r);
    }
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    if (WIFSTOPPED(status)) { /* else ptrace is not allowed here */
        steps = cost_steps(pid);
        kill(pid, SIGKILL);
        waitpid(pid, &status, 0);
        printf("a record takes %lu instructions of the launcher\n", steps / COST_RECORDS);
        ck_assert_uint_gt(steps, COST_RECORDS * 100);
        ck_assert_uint_lt(steps, COST_RECORDS * COST_MAX);
    }
    bench_close(&b);
#endif
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
    tcase_add_test(tc, test_code_named_late);
    tcase_add_test(tc, test_thread_renamed);
    tcase_add_test(tc, test_many_names);
    tcase_add_test(tc, test_other_model);
    tcase_add_test(tc, test_cost);
    return gen_run(tc);
}
