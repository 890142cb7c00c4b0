/* Frames made by hand for the tests of stream, model and renderers; one small
 * session that several of them share. */
#ifndef MP_WIRE_GEN_H
#define MP_WIRE_GEN_H

#include <check.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "boot.h"
#include "render/render.h"
#include "stream/model.h"
#include "stream/stream.h"

#define GEN_ROOM (1u << 20)
#define GEN_START 5000000000000ull           /* CLOCK_MONOTONIC at the attach */
#define GEN_OFFSET (1767323045123456789ll - 5000000000000ll) /* 2026-01-02T03:04:05.123456789Z at the attach */
#define GEN_PAGE 4096
#define GEN_ALL (MP_REC_HAS_RSS | MP_REC_HAS_OWN)

struct gen {
    size_t len;
    unsigned char *bytes;
};

static inline void gen_init(struct gen *g)
{
    g->len = 0;
    g->bytes = malloc(GEN_ROOM);
    ck_assert_ptr_nonnull(g->bytes);
}

static inline void gen_free(struct gen *g)
{
    free(g->bytes);
}

static inline void gen_bytes(struct gen *g, const void *data, size_t len)
{
    ck_assert_uint_le(g->len + len, GEN_ROOM);
    if (len)
        memcpy(g->bytes + g->len, data, len);
    g->len += len;
}

static inline void gen_head(struct gen *g, unsigned type, unsigned count, size_t payload)
{
    struct mp_frame f = {.len = (uint32_t)(sizeof(f) + payload), .type = (uint16_t)type, .count = (uint16_t)count};

    gen_bytes(g, &f, sizeof(f));
}

static inline void gen_plain(struct gen *g, unsigned type, const void *data, size_t len)
{
    gen_head(g, type, 1, len);
    gen_bytes(g, data, len);
}

static inline void gen_hello(struct gen *g)
{
    struct mp_hello h = {.abi = MP_ABI, .pid = 4242, .tid = 4250, .py_version = 0x030b0700};

    gen_plain(g, MP_MSG_HELLO, &h, sizeof(h));
}

static inline void gen_hooked(struct gen *g)
{
    struct mp_slots s = {.eval_default = 0x55d0c0de0000, .hook = MP_HOOK_THUNK};

    gen_plain(g, MP_MSG_HOOKED, &s, sizeof(s));
}

static inline void gen_open(struct gen *g)
{
    gen_init(g);
    gen_hello(g);
    gen_hooked(g);
}

static inline void gen_code_n(struct gen *g, struct mp_code h, const char *name, const char *file, const char *module)
{
    gen_head(g, MP_MSG_CODE, 1, sizeof(h) + h.name_len + h.file_len + h.module_len);
    gen_bytes(g, &h, sizeof(h));
    gen_bytes(g, name, h.name_len);
    gen_bytes(g, file, h.file_len);
    gen_bytes(g, module, h.module_len);
}

static inline void gen_code(struct gen *g, uint32_t id, uint32_t line, const char *name, const char *file,
                            const char *module)
{
    struct mp_code h = {.id = id, .firstlineno = line, .name_len = (uint16_t)strlen(name),
                        .file_len = (uint16_t)strlen(file), .module_len = (uint16_t)strlen(module)};

    gen_code_n(g, h, name, file, module);
}

static inline void gen_thread(struct gen *g, uint32_t id, int32_t tid, uint32_t flags, const char *name)
{
    struct mp_thread h = {.id = id, .tid = tid, .flags = flags, .name_len = (uint16_t)strlen(name)};

    gen_head(g, MP_MSG_THREAD, 1, sizeof(h) + h.name_len);
    gen_bytes(g, &h, sizeof(h));
    gen_bytes(g, name, h.name_len);
}

static inline void gen_records(struct gen *g, const struct mp_record *r, unsigned n)
{
    gen_head(g, MP_MSG_RECORDS, n, n * sizeof(*r));
    gen_bytes(g, r, n * sizeof(*r));
}

static inline void gen_lost(struct gen *g, uint64_t count, uint32_t thread, uint32_t reason)
{
    struct mp_lost l = {count, thread, reason};

    gen_plain(g, MP_MSG_LOST, &l, sizeof(l));
}

static inline void gen_note(struct gen *g, uint32_t code, const char *text)
{
    struct mp_note h = {.code = code, .text_len = (uint16_t)strlen(text)};

    gen_head(g, MP_MSG_NOTE, 1, sizeof(h) + h.text_len);
    gen_bytes(g, &h, sizeof(h));
    gen_bytes(g, text, h.text_len);
}

static inline void gen_bye(struct gen *g)
{
    struct mp_bye b = {.reason = MP_BYE_DETACH, .records = 9, .hook_ns = 1000000};

    gen_plain(g, MP_MSG_BYE, &b, sizeof(b));
}

/* A call of [start, start + dur] in us after the attach; own and rss in pages. */
static inline struct mp_record gen_call(uint32_t code, uint32_t thread, unsigned depth, uint64_t start_us,
                                        uint64_t dur_us, int32_t rss, uint32_t own, uint32_t rss_after)
{
    return (struct mp_record){
        .time_ns = GEN_START + (start_us + dur_us) * 1000, .dur_ns = dur_us * 1000, .code_id = code,
        .thread_id = thread, .type = MP_REC_CALL, .flags = GEN_ALL, .depth = (uint16_t)depth,
        .rss_delta_pages = rss, .rss_pages = rss_after, .own_pages = own,
    };
}

static inline struct mp_record gen_line(uint32_t code, uint32_t thread, unsigned depth, uint64_t at_us, uint32_t line,
                                        uint32_t rss, uint32_t own)
{
    return (struct mp_record){
        .time_ns = GEN_START + at_us * 1000, .code_id = code, .thread_id = thread, .type = MP_REC_LINE,
        .flags = GEN_ALL, .depth = (uint16_t)depth, .line = line, .rss_pages = rss, .own_pages = own,
    };
}

static inline void gen_call1(struct gen *g, struct mp_record r)
{
    gen_records(g, &r, 1);
}

/* Decodes all of g; every event goes to m and r (either may be NULL). */
static inline void gen_play(const struct gen *g, struct model *m, struct render *r)
{
    struct stream *s = stream_new();
    struct stream_event ev;
    size_t at = 0;
    int n;

    ck_assert_ptr_nonnull(s);
    do {
        at += stream_feed(s, g->bytes + at, g->len - at);
        while ((n = stream_next(s, &ev)) > 0) {
            if (m)
                ck_assert_int_eq(model_event(m, &ev), 0);
            if (r)
                ck_assert_int_eq(render_event(r, m, &ev), 0);
        }
        ck_assert_int_eq(n, 0);
    } while (at < g->len);
    stream_free(s);
}

static inline struct render_meta gen_meta(void)
{
    struct render_meta m = {
        .tool_version = "0.1.0", .pid = 4242, .starttime = 123456, .exe = "/usr/bin/python3.11",
        .cmdline = "python3 service.py --port 8000", .py_version = 0x030b0700, .glibc_major = 2, .glibc_minor = 36,
        .threads = 3, .rss_bytes = 20000ull * GEN_PAGE, .page_size = GEN_PAGE, .pause_ns = 184000, .pause_sum_ns = 184000, .attempts = 1,
        .realtime_offset_ns = GEN_OFFSET, .start_mono_ns = GEN_START,
        .options = {.depth = 3, .rollup_budget_ppm = 5000},
        .selftest = {.pages_touched = 64, .flags = MP_SELF_STATM | MP_SELF_ROLLUP, .statm_ns = 620, .rusage_ns = 240,
                     .clock_ns = 22, .rollup_ns = 310000, .page_size = GEN_PAGE},
        .slots = {.eval_default = 0x55d0c0de0000ull, .hook = MP_HOOK_THUNK},
    };
    return m;
}

static inline struct render_end gen_end(void)
{
    struct render_end e = {.reason = "duration", .clean = true, .records = 11, .lost = 37, .cost_pct = 0.4312,
                           .overhead_pct = -1,
                           .pause_ns = 184400, .pause_sum_ns = 184400, .attempts = 1, .wall_ns = 30000000000ull};
    return e;
}

static inline void gen_service_names(struct gen *g)
{
    struct mp_code gen = {.id = 4, .firstlineno = 90, .flags = MP_CODE_GENERATOR, .name_len = 13, .file_len = 15,
                          .module_len = 3};

    gen_code(g, 1, 41, "Service.handle_request", "/srv/app/service.py", "app.service");
    gen_code(g, 2, 12, "Cache.remember", "/srv/app/cache.py", "app.cache");
    gen_code(g, 3, 77, "render_report.<locals>.build_rows_for_the_whole_month",
             "/usr/lib/python3/dist-packages/a_rather_long_package_name/reports/monthly.py", "");
    gen_code_n(g, gen, "stream.<rows>", "/srv/app/rows.p", "app");
    gen_code(g, 5, 5, "\xe6\xb8\xac\xe5\xae\x9a_\xc3\xa9", "/srv/app/\xe6\xb8\xac.py", "app.intl");
    gen_thread(g, 1, 4242, MP_THREAD_MAIN, "MainThread");
    gen_thread(g, 2, 4260, 0, "ThreadPoolExecutor-0_1");
}

static inline void gen_service_calls(struct gen *g)
{
    struct mp_record r[11] = {
        gen_call(2, 1, 2, 1000, 250, 256, 256, 20256),
        gen_call(1, 1, 1, 500, 1230, 260, 262, 20261),
        gen_call(3, 2, 1, 1400, 90000, 5000, 5002, 25261),
        gen_call(3, 2, 1, 95000, 41000, -4100, 12, 21161),
        gen_call(2, 1, 2, 200000, 180, 256, 256, 21417),
        gen_call(4, 1, 3, 200300, 3, 0, 0, 21417),
        gen_call(1, 1, 1, 199900, 1100, 256, 256, 21417),
        gen_call(5, 1, 1, 210000, 12000000, 3, 3, 21420),
        gen_line(1, 1, 1, 12300000, 43, 21420, 0),
        gen_line(1, 1, 1, 12300100, 44, 21520, 100),
        gen_line(1, 1, 1, 12300200, 43, 21520, 0),
    };

    r[0].flags |= MP_REC_HAS_USS | MP_REC_HAS_USS_DELTA | MP_REC_HAS_PEAK;
    r[0].uss_bytes = 70000000;
    r[0].uss_delta = 1048576;
    r[0].peak_bytes = 90000000;
    r[3].flags |= MP_REC_RAISED;
    r[5].flags |= MP_REC_YIELDED | MP_REC_RESUMED;
    r[7].flags &= (uint16_t)~MP_REC_HAS_OWN;
    r[8].flags |= MP_REC_HAS_USS | MP_REC_HAS_PEAK;
    r[8].uss_bytes = 1234567890;
    r[8].swap_bytes = 4096;
    r[8].peak_bytes = 2345678901;
    r[9].flags |= MP_REC_HAS_PEAK;
    r[9].peak_bytes = 2345678901;
    gen_records(g, r, 3);
    gen_lost(g, 37, 2, MP_LOST_RING);
    gen_records(g, r + 3, 8);
}

#define GEN_SERVICE_EVENTS 16 /* frames of gen_service */

/* A small service: a cache that leaks, a report that peaks, two threads. */
static inline void gen_service(struct gen *g)
{
    struct mp_stats s = {.time_ns = GEN_START + 1000, .rss_bytes = 20000ull * GEN_PAGE, .threads = 2};

    gen_open(g);
    gen_service_names(g);
    gen_plain(g, MP_MSG_STATS, &s, sizeof(s));
    gen_service_calls(g);
    gen_note(g, MP_NOTE_OTHER, "a note with \x1b[31mcolour\nand a line");
    s = (struct mp_stats){.time_ns = GEN_START + 30000000000ull, .records = 11, .lost = 37, .filtered = 5,
                          .events = 123456, .hook_ns = 129360000, .rollup_ns = 3000000,
                          .rss_bytes = 21530ull * GEN_PAGE, .uss_bytes = 80000000, .peak_bytes = 103469056,
                          .threads = 2, .codes = 5};
    gen_plain(g, MP_MSG_STATS, &s, sizeof(s));
    gen_bye(g);
}

static inline struct mp_govern gen_govern(uint64_t at_us, uint32_t stage, uint32_t depth, uint32_t sample_log2,
                                          uint32_t rollup_ppm, uint32_t cost_ppm)
{
    return (struct mp_govern){
        .time_ns = GEN_START + at_us * 1000, .stage = stage, .depth = depth, .sample_log2 = sample_log2,
        .rollup_ppm = rollup_ppm, .window_ns = 250000000, .hook_ns = 200ull * cost_ppm, .work_ns = 200000000,
        .cost_ppm = cost_ppm, .floor_ppm = cost_ppm / 10,
    };
}

/* The same service under --max-overhead 2%: through all stages and two steps back. */
static inline void gen_governed(struct gen *g)
{
    static const struct mp_account account = {
        .work_ns = 12000000000, .agent_ns = 90000000, .floor_ns = 150000000, .cost_ppm = 900,
        .stage_ns = {20000000000, 250000000, 250000000, 8500000000, 1000000000}, .deepest = MP_STAGE_QUIET,
        .least_depth = 1, .most_sample_log2 = 6,
    };
    struct mp_govern steps[] = {
        gen_govern(250000, MP_STAGE_ROLLUP, 3, 0, 78, 310000),  gen_govern(500000, MP_STAGE_DEPTH, 1, 0, 78, 295000),
        gen_govern(750000, MP_STAGE_SAMPLED, 1, 3, 78, 120000), gen_govern(1000000, MP_STAGE_QUIET, 1, 6, 78, 40000),
        gen_govern(2000000, MP_STAGE_SAMPLED, 1, 6, 78, 900),   gen_govern(9000000, MP_STAGE_FULL, 3, 0, 5000, 12),
    };
    struct mp_record r[4] = {
        gen_call(2, 1, 2, 1000, 250, 256, 256, 20256), gen_call(1, 1, 1, 500, 1230, 260, 262, 20261),
        gen_call(2, 1, 1, 760000, 180, 8, 8, 20300),   gen_call(3, 2, 1, 800000, 90, 2, 3, 20302),
    };
    struct mp_stats s = {.time_ns = GEN_START + 1000, .rss_bytes = 20000ull * GEN_PAGE, .threads = 2};
    struct mp_bye bye = {.reason = MP_BYE_DETACH, .records = 4, .hook_ns = 372000000, .account = account};

    r[2].weight_log2 = 3;
    r[3].weight_log2 = 6;
    r[3].flags |= MP_REC_RAISED;
    gen_open(g);
    gen_service_names(g);
    gen_plain(g, MP_MSG_STATS, &s, sizeof(s));
    gen_records(g, r, 2);
    for (size_t i = 0; i < 3; i++)
        gen_plain(g, MP_MSG_GOVERN, &steps[i], sizeof(steps[i]));
    gen_records(g, r + 2, 2);
    for (size_t i = 3; i < 6; i++)
        gen_plain(g, MP_MSG_GOVERN, &steps[i], sizeof(steps[i]));
    s = (struct mp_stats){.time_ns = GEN_START + 30000000000ull, .records = 4, .events = 123456, .hook_ns = 370000000,
                          .rollup_ns = 3000000, .rss_bytes = 20400ull * GEN_PAGE, .threads = 2, .codes = 5,
                          .account = account};
    gen_plain(g, MP_MSG_STATS, &s, sizeof(s));
    gen_plain(g, MP_MSG_BYE, &bye, sizeof(bye));
}

/* What cmd_live.c makes of it. */
static inline struct render_end gen_governed_end(const struct model *m)
{
    struct render_end e = gen_end();
    struct model_totals t;

    model_totals(m, &t);
    e.records = 4;
    e.lost = 0;
    e.hook_ns = 372000000;
    e.overhead_pct = render_overhead_pct(e.hook_ns, t.account.work_ns);
    e.max_overhead_ppm = 20000;
    e.depth = 3;
    e.account = t.account;
    return e;
}

/* Text that a FILE collects. */
struct capture {
    FILE *file;
    char *text;
    size_t len;
};

static inline void capture_open(struct capture *c)
{
    c->text = NULL;
    c->file = open_memstream(&c->text, &c->len);
    ck_assert_ptr_nonnull(c->file);
}

static inline void capture_close(struct capture *c)
{
    if (c->file)
        ck_assert_int_eq(fclose(c->file), 0);
    c->file = NULL;
}

/* Compares with golden/NAME beside the test's source; UPDATE_GOLDEN=1 rewrites it. */
static inline void golden_check(const char *source, const char *name, struct capture *c)
{
    const char *slash = strrchr(source, '/');
    char path[1024], *want = NULL;
    size_t len = 0;
    FILE *f;

    capture_close(c);
    snprintf(path, sizeof(path), "%.*s/golden/%s", slash ? (int)(slash - source) : 1, slash ? source : ".", name);
    f = fopen(path, getenv("UPDATE_GOLDEN") ? "w+" : "r");
    ck_assert_msg(f != NULL, "%s: %s", path, strerror(errno));
    if (getenv("UPDATE_GOLDEN"))
        fwrite(c->text, 1, c->len, f);
    rewind(f);
    want = calloc(1, GEN_ROOM);
    ck_assert_ptr_nonnull(want);
    len = fread(want, 1, GEN_ROOM - 1, f);
    fclose(f);
    if (len != c->len || memcmp(want, c->text, len)) {
        fprintf(stderr, "%s differs; got:\n%s\n", path, c->text); /* a message of Check's has less room */
        ck_abort_msg("%s differs", path);
    }
    free(want);
    free(c->text);
}

/* Runs the tests of one case; the exit code of the program. */
static inline int gen_run(TCase *tc)
{
    Suite *s = suite_create("unit");
    SRunner *sr;
    int failed;

    setenv("TZ", "UTC", 1);
    tcase_set_timeout(tc, 120);
    suite_add_tcase(s, tc);
    sr = srunner_create(s);
    srunner_run_all(sr, CK_NORMAL);
    failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed ? 1 : 0;
}

#endif
