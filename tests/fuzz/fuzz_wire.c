/* What a compromised target can say: decoder, model and every renderer, and what they
 * write is fit for a terminal and valid NDJSON.
 *
 * The first byte of an input chooses options. FUZZ_PREFIX puts the handshake in front, so
 * that mutations start behind it; FUZZ_FRAMES makes whole frames of the rest (type, length,
 * payload), so that they get past the decoder and into the model. */
#include "fuzz.h"

#include <json-c/json.h>

#include "boot.h"
#include "render/render.h"
#include "stream/model.h"
#include "stream/stream.h"

#define FUZZ_PREFIX 0x80
#define FUZZ_WIDE 0x40
#define FUZZ_COLOR 0x20
#define FUZZ_CHUNKS 0x10
#define FUZZ_FRAMES 0x08
#define FUZZ_WIDTHS 0x07

#define FRAMES_MAX (48u << 10) /* bytes that FUZZ_FRAMES makes at most */

struct session {
    struct stream *stream;
    struct model *model;
    struct render *text, *ndjson;
    FILE *out[2]; /* of text and ndjson */
    char *written[2];
    size_t len[2];
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

/* Payload sizes, as the decoder wants them; strings come behind. */
static const struct {
    enum mp_msg type;
    size_t size;
} kinds[] = {
    {MP_MSG_RECORDS, 0}, {MP_MSG_CODE, sizeof(struct mp_code)}, {MP_MSG_THREAD, sizeof(struct mp_thread)},
    {MP_MSG_LOST, sizeof(struct mp_lost)}, {MP_MSG_STATS, sizeof(struct mp_stats)},
    {MP_MSG_NOTE, sizeof(struct mp_note)}, {MP_MSG_GOVERN, sizeof(struct mp_govern)},
    {MP_MSG_BYE, sizeof(struct mp_bye)}, {MP_MSG_FAILED, sizeof(struct mp_failed)},
    {MP_MSG_SELFTEST, sizeof(struct mp_selftest)}, {MP_MSG_HELLO, sizeof(struct mp_hello)},
};

/* Few ids and a clock that goes on: calls then nest, and names are found. */
static size_t put_record(unsigned char *to, struct fuzz_in *in, uint64_t *clock)
{
    struct mp_record r = {0};
    uint8_t b = fuzz_u8(in);

    if (b & 0x80) {
        fuzz_take(in, &r, sizeof(r));
    } else {
        *clock += fuzz_u16(in);
        r = (struct mp_record){.time_ns = *clock, .code_id = b & 7, .thread_id = 1 + (b >> 3 & 3),
                               .type = b & 0x20 ? MP_REC_LINE : MP_REC_CALL, .flags = fuzz_u8(in)};
        r.depth = fuzz_u8(in) % 8;
        r.dur_ns = fuzz_u16(in) % (*clock + 1);
        r.weight_log2 = b & 0x20 ? 0 : fuzz_u8(in) % (MP_SAMPLE_LOG2_MAX + 1);
        r.line = b & 0x20 ? fuzz_u8(in) : 0;
        r.rss_delta_pages = (int16_t)fuzz_u16(in);
        r.own_pages = fuzz_u8(in);
    }
    memcpy(to, &r, sizeof(r));
    return sizeof(r);
}

/* Lengths that fit the strings which follow: the strings are the input's. */
static size_t put_strings(unsigned char *payload, enum mp_msg type, struct fuzz_in *in)
{
    struct mp_code code;
    struct mp_thread thread;
    struct mp_note note;

    if (type == MP_MSG_CODE) {
        memcpy(&code, payload, sizeof(code));
        code = (struct mp_code){.id = 1 + code.id % 7, .firstlineno = code.firstlineno, .flags = code.flags,
                                .name_len = code.name_len % 64, .file_len = code.file_len % 64,
                                .module_len = code.module_len % 32};
        memcpy(payload, &code, sizeof(code));
        fuzz_take(in, payload + sizeof(code), (size_t)code.name_len + code.file_len + code.module_len);
        return (size_t)code.name_len + code.file_len + code.module_len;
    }
    if (type == MP_MSG_THREAD) {
        memcpy(&thread, payload, sizeof(thread));
        thread = (struct mp_thread){.id = 1 + thread.id % 4, .tid = thread.tid & 0xffff, .flags = thread.flags,
                                    .name_len = thread.name_len % (MP_THREAD_NAME_MAX + 1)};
        memcpy(payload, &thread, sizeof(thread));
        fuzz_take(in, payload + sizeof(thread), thread.name_len);
        return thread.name_len;
    }
    if (type == MP_MSG_NOTE) {
        memcpy(&note, payload, sizeof(note));
        note.text_len %= 256;
        memcpy(payload, &note, sizeof(note));
        fuzz_take(in, payload + sizeof(note), note.text_len);
        return note.text_len;
    }
    return 0;
}

/* Whole frames of the input; its bytes of the length that is given fill the fixed part. */
static size_t make_frames(unsigned char *buf, struct fuzz_in *in)
{
    unsigned char payload[1024];
    uint64_t clock = 1000;
    size_t len = 0;

    while (in->left && len < FRAMES_MAX - sizeof(payload) - sizeof(struct mp_frame)) {
        unsigned kind = fuzz_u8(in) % (sizeof(kinds) / sizeof(kinds[0])), given = fuzz_u8(in), count = 1;
        size_t n = kinds[kind].size;

        memset(payload, 0, sizeof(payload));
        if (kinds[kind].type == MP_MSG_RECORDS)
            for (count = 0; count <= given % 4; count++)
                n += put_record(payload + n, in, &clock);
        else
            fuzz_take(in, payload, given < n ? given : n);
        n += put_strings(payload, kinds[kind].type, in);
        put(buf, &len, kinds[kind].type, count, payload, n);
    }
    return len;
}

static void open_sink(struct session *s, unsigned i)
{
    s->out[i] = open_memstream(&s->written[i], &s->len[i]);
    FUZZ_HOLDS(s->out[i]);
}

/* Each line is one JSON value by the letter of RFC 8259. */
static void check_ndjson(char *text, size_t len)
{
    struct json_tokener *tok = json_tokener_new();
    char *at = text, *eol;

    FUZZ_HOLDS(tok && (!len || text[len - 1] == '\n'));
    json_tokener_set_flags(tok, JSON_TOKENER_STRICT | JSON_TOKENER_VALIDATE_UTF8);
    for (; at < text + len; at = eol + 1) {
        struct json_object *o;

        eol = strchr(at, '\n');
        json_tokener_reset(tok);
        o = json_tokener_parse_ex(tok, at, (int)(eol - at));
        FUZZ_HOLDS(o && json_object_is_type(o, json_type_object));
        FUZZ_HOLDS(json_tokener_get_parse_end(tok) == (size_t)(eol - at));
        json_object_put(o);
    }
    json_tokener_free(tok);
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
        render_ranking(s->out[0], s->model, color, width) || render_mempulse(s->out[0], s->model) ||
        render_verdict(s->out[0], 1, &end))
        abort();
    for (unsigned i = 0; i < 2; i++)
        FUZZ_HOLDS(fclose(s->out[i]) == 0);
    fuzz_shown(s->written[0], s->len[0], color);
    fuzz_shown(s->written[1], s->len[1], 0);
    check_ndjson(s->written[1], s->len[1]);
    free(s->written[0]);
    free(s->written[1]);
    render_free(s->text);
    render_free(s->ndjson);
    model_free(s->model);
    stream_free(s->stream);
}

static void feed(struct session *s, const uint8_t *data, size_t size, size_t step)
{
    size_t at = 0;

    while (at < size) {
        size_t n = stream_feed(s->stream, data + at, step && size - at > step ? step : size - at);

        at += n;
        drain(s);
        if (!n)
            break;
    }
}

static void start(struct session *s, struct render_options *o)
{
    struct render_meta meta = {.page_size = 4096, .realtime_offset_ns = 1700000000000000000ll};

    open_sink(s, 0);
    open_sink(s, 1);
    s->stream = stream_new();
    s->model = model_new(4096);
    o->out = s->out[0];
    s->text = render_text_new(o);
    o->out = s->out[1];
    s->ndjson = render_ndjson_new(o);
    if (!s->stream || !s->model || !s->text || !s->ndjson || render_begin(s->text, &meta) || render_begin(s->ndjson, &meta))
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static unsigned char frames[FRAMES_MAX];
    struct fuzz_in in = {data, size};
    unsigned options = fuzz_u8(&in);
    struct render_options o = {.color = options & FUZZ_COLOR, .lines = true,
                               .width = options & FUZZ_WIDE ? 20 + (options & FUZZ_WIDTHS) * 20 : 0};
    struct session s = {0};

    start(&s, &o);
    if (options & FUZZ_PREFIX)
        feed(&s, frames, handshake(frames), 0);
    drain(&s);
    if (options & FUZZ_FRAMES) {
        in.left = make_frames(frames, &in);
        in.at = frames;
    }
    feed(&s, in.at, in.left, options & FUZZ_CHUNKS ? 13 : 0);
    finish(&s, o.width, o.color);
    return 0;
}
