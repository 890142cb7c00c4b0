/* Fuzzes what a compromised target can say: decoder, model and every renderer.
 *
 *   clang -g -O1 -fsanitize=fuzzer,address,undefined -std=gnu11 -D_GNU_SOURCE -Iinclude -Isrc \
 *     tests/fuzz/fuzz_wire.c src/stream/[a-z]*.c src/render/[a-z]*.c src/base/{err,io,text,time,utf8}.c \
 *     -ljson-c -lm -o fuzz_wire
 *   tests/unit/test_stream writes no corpus; ./fuzz_wire finds the way in from nothing in minutes. A seed:
 *   FUZZ_WIRE_SEED=DIR ./fuzz_wire -runs=0 writes one.
 *
 * The first byte of an input chooses options; 0x80 in it puts the handshake in
 * front, so that mutations start behind it. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "boot.h"
#include "render/render.h"
#include "stream/model.h"
#include "stream/stream.h"

#define FUZZ_PREFIX 0x80
#define FUZZ_WIDE 0x40
#define FUZZ_COLOR 0x20
#define FUZZ_CHUNKS 0x10

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static FILE *sink;

struct session {
    struct stream *stream;
    struct model *model;
    struct render *text, *ndjson;
};

static void put(unsigned char *buf, size_t *len, unsigned type, unsigned count, const void *p, size_t n)
{
    struct mp_frame f = {(uint32_t)(sizeof(f) + n), (uint16_t)type, (uint16_t)count};

    memcpy(buf + *len, &f, sizeof(f));
    memcpy(buf + *len + sizeof(f), p, n);
    *len += sizeof(f) + n;
}

static size_t handshake(unsigned char *buf)
{
    struct mp_hello hello = {.abi = MP_ABI, .pid = 7};
    struct mp_slots slots = {0};
    size_t len = 0;

    put(buf, &len, MP_MSG_HELLO, 1, &hello, sizeof(hello));
    put(buf, &len, MP_MSG_HOOKED, 1, &slots, sizeof(slots));
    return len;
}

static void write_seed(const char *dir)
{
    struct mp_record rec[3] = {
        {.time_ns = 300, .dur_ns = 100, .code_id = 2, .thread_id = 1, .type = MP_REC_CALL, .flags = 31, .depth = 2},
        {.time_ns = 350, .code_id = 1, .thread_id = 1, .type = MP_REC_LINE, .flags = 23, .depth = 1, .line = 3},
        {.time_ns = 400, .dur_ns = 300, .code_id = 1, .thread_id = 1, .type = MP_REC_CALL, .flags = 31, .depth = 1},
    };
    struct { struct mp_code head; char text[6]; } __attribute__((packed)) code = {
        {.id = 1, .firstlineno = 9, .name_len = 2, .file_len = 3, .module_len = 1}, "nafilm"};
    struct { struct mp_thread head; char text[4]; } thread = {{.id = 1, .tid = 8, .name_len = 4}, "main"};
    struct mp_lost lost = {5, 1, 1};
    struct mp_stats stats = {.time_ns = 500, .rss_bytes = 4096};
    struct mp_govern govern = {.time_ns = 510, .stage = MP_STAGE_SAMPLED, .depth = 1, .sample_log2 = 3};
    struct mp_bye bye = {.reason = 1};
    unsigned char buf[4096] = {FUZZ_PREFIX};
    char path[512];
    size_t len = 1;
    FILE *f;

    put(buf, &len, MP_MSG_CODE, 1, &code, sizeof(code));
    put(buf, &len, MP_MSG_THREAD, 1, &thread, sizeof(thread));
    put(buf, &len, MP_MSG_RECORDS, 3, rec, sizeof(rec));
    put(buf, &len, MP_MSG_LOST, 1, &lost, sizeof(lost));
    put(buf, &len, MP_MSG_STATS, 1, &stats, sizeof(stats));
    put(buf, &len, MP_MSG_GOVERN, 1, &govern, sizeof(govern));
    put(buf, &len, MP_MSG_BYE, 1, &bye, sizeof(bye));
    snprintf(path, sizeof(path), "%s/session", dir);
    f = fopen(path, "w");
    if (!f || fwrite(buf, 1, len, f) != len || fclose(f))
        abort();
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    sink = fopen("/dev/null", "w");
    if (!sink)
        abort();
    if (getenv("FUZZ_WIRE_SEED"))
        write_seed(getenv("FUZZ_WIRE_SEED"));
    return 0;
}

static void drain(struct session *s)
{
    struct stream_event ev;
    int n;

    while ((n = stream_next(s->stream, &ev)) > 0) {
        if (model_event(s->model, &ev) || render_event(s->text, s->model, &ev) ||
            render_event(s->ndjson, s->model, &ev))
            abort();
    }
    if (n < 0 && stream_next(s->stream, &ev) != n)
        abort();
}

/* What must hold whatever came. */
static void check(const struct model *m)
{
    const struct model_code **rank;
    const struct model_line **lines;
    struct model_totals t;
    long n = model_ranking(m, &rank);

    for (long i = 1; i < n; i++)
        if (rank[i - 1]->rss_self < rank[i]->rss_self)
            abort();
    free(rank);
    if (model_lines(m, &lines) < 0)
        abort();
    free(lines);
    model_totals(m, &t);
    if (t.records != t.calls + t.lines || t.calls_estimated < t.calls)
        abort();
}

static void finish(struct session *s, unsigned width, bool color)
{
    struct render_end end = {.reason = "fuzz", .residue = 255, .residue_text = "a\nb",
                             .overhead_pct = 1, .max_overhead_ppm = 20000, .depth = 3};
    struct model_totals t;

    check(s->model);
    model_totals(s->model, &t);
    end.account = t.account;
    if (render_finish(s->text, s->model, &end) || render_finish(s->ndjson, s->model, &end) ||
        render_ranking(sink, s->model, color, width) || render_mempulse(sink, s->model) ||
        render_verdict(sink, 1, &end))
        abort();
    render_free(s->text);
    render_free(s->ndjson);
    model_free(s->model);
    stream_free(s->stream);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    unsigned char prefix[256], options = size ? data[0] : 0;
    struct render_options o = {.out = sink, .color = options & FUZZ_COLOR, .lines = true,
                               .width = options & FUZZ_WIDE ? 20 + (options & 15) * 10 : 0};
    struct session s = {stream_new(), model_new(4096), render_text_new(&o), render_ndjson_new(&o)};
    struct render_meta meta = {.page_size = 4096, .realtime_offset_ns = 1700000000000000000ll};
    size_t at = 1;

    if (!s.stream || !s.model || !s.text || !s.ndjson || render_begin(s.text, &meta) || render_begin(s.ndjson, &meta))
        abort();
    if (options & FUZZ_PREFIX)
        stream_feed(s.stream, prefix, handshake(prefix));
    drain(&s);
    while (at < size) {
        size_t n = options & FUZZ_CHUNKS && size - at > 13 ? 13 : size - at;

        n = stream_feed(s.stream, data + at, n);
        at += n;
        drain(&s);
        if (!n)
            break;
    }
    finish(&s, o.width, o.color);
    return 0;
}
