/* NDJSON: one object a line (docs/ndjson.md, docs/ndjson.schema.json). Every
 * record carries all it needs, so that a line can be read by itself. What was
 * not measured is absent, never 0. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"
#include "control.h"
#include "render/jline.h"
#include "render/render_priv.h"

#define NDJSON_VERSION 1

struct flag_row {
    uint32_t bit;
    const char *name;
};

static const struct flag_row residue_names[] = {
    {MP_RESIDUE_THUNK, "thunk"},
    {MP_RESIDUE_CHAINED, "chained"},
    {MP_RESIDUE_HELD, "held"},
    {MP_RESIDUE_COPY, "copy"},
    {MP_RESIDUE_TRACE, "trace"},
};

static const char *const note_names[] = {
    [MP_NOTE_LINES_BUSY] = "lines_busy",
    [MP_NOTE_CHAINED] = "chained",
    [MP_NOTE_GIL] = "gil",
    [MP_NOTE_OTHER] = "other",
    [MP_NOTE_FORK] = "fork",
    [MP_NOTE_ROLLUP] = "rollup",
};

static const char *const hook_names[] = {"none", "thunk", "monitoring"};

static const char *name_of(const char *const *names, size_t count, uint32_t i)
{
    return i < count && names[i] ? names[i] : "other";
}
#define NAME_OF(names, i) name_of(names, sizeof(names) / sizeof((names)[0]), i)

/* The calendar's time; absent when it has none for that. */
static void add_calendar(struct render *r, struct jline *j, uint64_t mono_ns)
{
    char buf[48];

    time_rfc3339(&r->clock, buf, sizeof(buf), (int64_t)(mono_ns + (uint64_t)r->realtime_offset_ns));
    if (*buf)
        jline_text(j, "time", buf);
}

/* When: t_ns since the start, and the calendar's time. */
static void add_time(struct render *r, struct jline *j, uint64_t mono_ns)
{
    if (!r->start_mono_ns)
        r->start_mono_ns = mono_ns;
    jline_int(j, "t_ns", (int64_t)(mono_ns - r->start_mono_ns));
    add_calendar(r, j, mono_ns);
}

static void add_patterns(struct jline *j, const char *key, const struct mp_patterns *p)
{
    char buf[MP_PATTERN_MAX * 3];

    if (!p->count)
        return;
    jline_array(j, key);
    for (uint32_t i = 0; i < p->count && i < MP_PATTERNS_MAX; i++)
        jline_item(j, utf8_sanitise_into(buf, sizeof(buf), p->glob[i], strnlen(p->glob[i], MP_PATTERN_MAX)));
    jline_close(j, ']');
}

static void add_options(struct jline *j, const struct mp_options *o)
{
    jline_object(j, "options");
    jline_uint(j, "depth", o->depth);
    jline_bool(j, "lines", o->flags & MP_OPT_LINES);
    jline_bool(j, "rollup", !(o->flags & MP_OPT_NO_ROLLUP));
    jline_uint(j, "rollup_budget_ppm", o->rollup_budget_ppm);
    jline_uint(j, "max_overhead_ppm", o->max_overhead_ppm);
    jline_uint(j, "min_bytes", o->min_bytes);
    jline_uint(j, "min_time_ns", o->min_time_ns);
    if (o->thread)
        jline_int(j, "thread", o->thread);
    add_patterns(j, "root", &o->root);
    add_patterns(j, "function", &o->function);
    add_patterns(j, "module", &o->module);
    add_patterns(j, "exclude", &o->exclude);
    jline_close(j, '}');
}

static void add_selftest(struct jline *j, const struct mp_selftest *t)
{
    jline_object(j, "selftest");
    jline_uint(j, "pages_touched", t->pages_touched);
    jline_int(j, "statm_error_pages", t->statm_error);
    jline_int(j, "minflt_error_pages", t->minflt_error);
    jline_bool(j, "statm", t->flags & MP_SELF_STATM);
    if (t->flags & MP_SELF_SYNC)
        jline_bool(j, "statm_synced", true);
    jline_bool(j, "rollup", t->flags & MP_SELF_ROLLUP);
    if (t->flags & MP_SELF_ROLLUP_LONG)
        jline_bool(j, "rollup_long", true);
    jline_bool(j, "thp", t->flags & MP_SELF_THP);
    jline_uint(j, "statm_ns", t->statm_ns);
    jline_uint(j, "rusage_ns", t->rusage_ns);
    jline_uint(j, "clock_ns", t->clock_ns);
    if (t->rollup_ns)
        jline_uint(j, "rollup_ns", t->rollup_ns);
    jline_close(j, '}');
}

static void add_slots(struct jline *j, const struct mp_slots *s)
{
    jline_object(j, "slots");
    jline_text(j, "hook", NAME_OF(hook_names, s->hook));
    jline_address(j, "eval_frame", s->eval_frame);
    jline_address(j, "eval_default", s->eval_default);
    jline_uint(j, "profile_threads", s->profile_threads);
    jline_uint(j, "trace_threads", s->trace_threads);
    jline_uint(j, "monitoring_tools", s->monitoring_tools);
    jline_close(j, '}');
}

static void add_python(struct jline *j, const struct render_meta *meta)
{
    char buf[48];
    uint32_t v = meta->py_version;

    snprintf(buf, sizeof(buf), "%" PRIu32 ".%" PRIu32 ".%" PRIu32, v >> 24, v >> 16 & 255, v >> 8 & 255);
    jline_text(j, "python", buf);
    jline_bool(j, "python_static", meta->py_static);
    snprintf(buf, sizeof(buf), "%u.%u", meta->glibc_major, meta->glibc_minor);
    jline_text(j, "glibc", buf);
}

static int ndjson_begin(struct render *r, const struct render_meta *meta)
{
    char buf[48];
    struct jline j;

    jline_begin(&j, "meta");
    jline_int(&j, "v", NDJSON_VERSION);
    jline_text(&j, "tool", "mempulse");
    jline_foreign(&j, "version", meta->tool_version);
    jline_int(&j, "pid", meta->pid);
    jline_uint(&j, "starttime", meta->starttime);
    jline_foreign(&j, "exe", meta->exe);
    jline_foreign(&j, "cmdline", meta->cmdline);
    add_python(&j, meta);
    if (r->start_mono_ns) {
        snprintf(buf, sizeof(buf), "%" PRIu64, r->start_mono_ns);
        jline_text(&j, "start_mono_ns", buf);
        add_calendar(r, &j, r->start_mono_ns);
    }
    jline_uint(&j, "threads", meta->threads);
    jline_uint(&j, "rss_bytes", meta->rss_bytes);
    jline_uint(&j, "page_bytes", r->page_size);
    jline_uint(&j, "pause_ns", meta->pause_ns);
    jline_uint(&j, "pause_sum_ns", meta->pause_sum_ns);
    jline_uint(&j, "attempts", meta->attempts);
    add_options(&j, &meta->options);
    add_selftest(&j, &meta->selftest);
    add_slots(&j, &meta->slots);
    return jline_write(&j, &r->io);
}

static void add_thread(struct jline *j, const struct model *m, uint32_t id)
{
    const struct model_thread *t = model_thread(m, id);

    jline_uint(j, "thread_id", id);
    if (!t || !t->tid)
        return;
    jline_int(j, "tid", t->tid);
    jline_text(j, "thread", t->name);
    jline_true(j, "main_thread", t->flags & MP_THREAD_MAIN);
}

/* Returns whether more is known of it than its number. */
static bool add_code(struct jline *j, const struct model_code *c, uint32_t id)
{
    jline_uint(j, "code", id);
    if (!c || (!c->flags && !c->firstlineno && !strcmp(c->file, "?"))) /* its CODE never came, or id 0 */
        return false;
    jline_text(j, "function", c->name);
    jline_text(j, "file", c->file);
    return true;
}

static void add_module(struct jline *j, const struct model_code *c)
{
    if (*c->module)
        jline_text(j, "module", c->module);
    jline_true(j, "generator", c->flags & MP_CODE_GENERATOR);
}

static void add_function(struct jline *j, const struct model_code *c, uint32_t id)
{
    if (!add_code(j, c, id))
        return;
    jline_uint(j, "line", c->firstlineno);
    add_module(j, c);
}

/* ---- records -----------------------------------------------------------------------------
 *
 * They come by the million, so they are written by hand, the lines of one frame into one
 * buffer. What a line says of its thread and of its function is rendered once and copied:
 *
 *     ,"code":7,"function":"f","file":"a.py","line":  41  ,"module":"m"
 *     0                                              head line         len
 *
 * A piece is right as long as its id is `named` as it was (model.h). A place in the tables
 * is the id's remainder: who comes later takes it. A piece has some 200 bytes; if all names
 * are as long and as strange as they can be, 5 MiB are kept. */

#define CODE_PIECES 1024u  /* powers of two */
#define THREAD_PIECES 256u
#define BATCH (16u << 10)  /* bytes of lines that are handed on together */
#define RECORD_ROOM 1024u  /* all of a record but its pieces: 29 keys and numbers, 30 bytes of calendar */

struct piece {
    uint32_t id;
    uint32_t head, line; /* lengths: up to a function's first line, and of it; 0: there is none */
    uint32_t len;
    uint64_t named;
    char *text;          /* owned; NULL: nothing here yet */
};

struct ndjson {
    struct jline lines;
    struct piece codes[CODE_PIECES], threads[THREAD_PIECES];
};

static struct ndjson *ndjson_own(struct render *r)
{
    struct ndjson *n = r->own;

    if (n)
        return n;
    n = calloc(1, sizeof(*n));
    if (n)
        jline_init(&n->lines);
    r->own = n;
    return n;
}

static void ndjson_release(struct render *r)
{
    struct ndjson *n = r->own;

    if (!n)
        return;
    for (size_t i = 0; i < CODE_PIECES; i++)
        free(n->codes[i].text);
    for (size_t i = 0; i < THREAD_PIECES; i++)
        free(n->threads[i].text);
    jline_release(&n->lines);
    free(n);
}

/* What was added to j since `from` becomes the piece's text. NULL when memory ran out. */
static struct piece *piece_take(struct piece *p, struct jline *j, size_t from, uint32_t id, uint64_t named)
{
    free(p->text);
    p->text = j->oom ? NULL : malloc(j->len - from);
    if (p->text) {
        memcpy(p->text, j->buf + from, j->len - from);
        p->len = (uint32_t)(j->len - from);
        p->id = id;
        p->named = named;
    }
    jline_release(j);
    return p->text ? p : NULL;
}

static bool piece_right(const struct piece *p, uint32_t id, uint64_t named)
{
    return p->text && p->id == id && p->named == named;
}

static const struct piece *thread_piece(struct ndjson *n, const struct model *m, uint32_t id)
{
    const struct model_thread *t = model_thread(m, id);
    struct piece *p = &n->threads[id % THREAD_PIECES];
    uint64_t named = t ? t->named : 0;
    struct jline j;
    size_t from;

    if (piece_right(p, id, named))
        return p;
    jline_begin(&j, "call");
    from = j.len;
    add_thread(&j, m, id);
    return piece_take(p, &j, from, id, named);
}

static const struct piece *code_piece(struct ndjson *n, const struct model *m, uint32_t id)
{
    const struct model_code *c = model_code(m, id);
    struct piece *p = &n->codes[id % CODE_PIECES];
    uint64_t named = c ? c->named : 0;
    struct jline j;
    size_t from;

    if (piece_right(p, id, named))
        return p;
    jline_begin(&j, "call");
    from = j.len;
    p->head = p->line = 0;
    if (add_code(&j, c, id)) {
        p->head = (uint32_t)(j.len - from + strlen(",\"line\":"));
        jline_uint(&j, "line", c->firstlineno);
        p->line = (uint32_t)(j.len - from - p->head);
        add_module(&j, c);
    }
    return piece_take(p, &j, from, id, named);
}

static inline char *put_bytes(char *to, const char *s, size_t n)
{
    memcpy(to, s, n);
    return to + n;
}

/* The lengths of constants are the compiler's to know. */
static inline __attribute__((always_inline)) char *put_text(char *to, const char *s)
{
    return put_bytes(to, s, strlen(s));
}

static inline __attribute__((always_inline)) char *put_uint(char *to, const char *key, uint64_t v)
{
    return jline_number_at(put_text(to, key), v, false);
}

static inline __attribute__((always_inline)) char *put_int(char *to, const char *key, int64_t v)
{
    return jline_number_at(put_text(to, key), v < 0 ? 0 - (uint64_t)v : (uint64_t)v, v < 0);
}

/* As add_time. */
static char *put_time(struct render *r, char *to, uint64_t mono_ns)
{
    if (!r->start_mono_ns)
        r->start_mono_ns = mono_ns;
    to = put_int(to, ",\"t_ns\":", (int64_t)(mono_ns - r->start_mono_ns));
    if (!*time_rfc3339(&r->clock, to + strlen(",\"time\":\""), TIME_RFC3339 + 1,
                       (int64_t)(mono_ns + (uint64_t)r->realtime_offset_ns)))
        return to;
    to = put_text(to, ",\"time\":\"") + TIME_RFC3339;
    return put_text(to, "\"");
}

static char *put_function(char *to, const struct piece *p, uint32_t line)
{
    if (!line || !p->head)
        return put_bytes(to, p->text, p->len);
    to = put_bytes(to, p->text, p->head);
    to = put_uint(to, "", line);
    to = put_text(to, ",\"def_line\":");
    return put_bytes(to, p->text + p->head, p->len - p->head);
}

static char *put_call(char *to, const struct mp_record *rec, int64_t page)
{
    to = put_uint(to, ",\"dur_ns\":", rec->dur_ns);
    if (rec->weight_log2)
        to = put_uint(to, ",\"weight\":", 1ull << rec->weight_log2);
    if (rec->flags & MP_REC_HAS_RSS)
        to = put_int(to, ",\"rss_delta_bytes\":", (int64_t)rec->rss_delta_pages * page);
    if (rec->flags & MP_REC_HAS_USS_DELTA)
        to = put_int(to, ",\"uss_delta_bytes\":", rec->uss_delta);
    if (rec->flags & MP_REC_RAISED)
        to = put_text(to, ",\"raised\":true");
    if (rec->flags & MP_REC_YIELDED)
        to = put_text(to, ",\"yielded\":true");
    if (rec->flags & MP_REC_RESUMED)
        to = put_text(to, ",\"resumed\":true");
    return to;
}

static char *put_levels(char *to, const struct mp_record *rec, int64_t page)
{
    if (rec->flags & MP_REC_HAS_RSS)
        to = put_int(to, ",\"rss_bytes\":", (int64_t)rec->rss_pages * page);
    if (rec->flags & MP_REC_HAS_OWN)
        to = put_int(to, ",\"own_bytes\":", (int64_t)rec->own_pages * page);
    if (rec->flags & MP_REC_HAS_USS) {
        to = put_uint(to, ",\"uss_bytes\":", rec->uss_bytes);
        to = put_uint(to, ",\"swap_bytes\":", rec->swap_bytes);
    }
    if (rec->flags & MP_REC_HAS_PEAK)
        to = put_uint(to, ",\"peak_bytes\":", rec->peak_bytes);
    return to;
}

/* One line, at the end of the buffer. false when memory ran out. */
static bool put_record(struct render *r, struct jline *lines, const struct mp_record *rec, const struct piece *thread,
                       const struct piece *code)
{
    bool line = rec->type == MP_REC_LINE;
    int64_t page = (int64_t)r->page_size;
    char *to = jline_place(lines, (size_t)RECORD_ROOM + thread->len + code->len);

    if (!to)
        return false;
    to = line ? put_text(to, "{\"type\":\"line\"") : put_text(to, "{\"type\":\"call\"");
    to = put_time(r, to, rec->time_ns);
    to = put_bytes(to, thread->text, thread->len);
    to = put_uint(to, ",\"depth\":", rec->depth);
    to = put_function(to, code, line ? rec->line : 0);
    if (!line)
        to = put_call(to, rec, page);
    to = put_levels(to, rec, page);
    to = put_text(to, "}\n");
    jline_placed(lines, to);
    return true;
}

/* A frame's records, which are of one thread mostly. */
static int put_records(struct render *r, const struct model *m, const struct mp_record *rec, unsigned count)
{
    const struct piece *thread = NULL, *code;
    struct ndjson *n = ndjson_own(r);
    int err = 0;

    if (!n)
        return -ENOMEM;
    for (unsigned i = 0; i < count && !err; i++) {
        if (!thread || thread->id != rec[i].thread_id)
            thread = thread_piece(n, m, rec[i].thread_id);
        code = code_piece(n, m, rec[i].code_id);
        if (!thread || !code || !put_record(r, &n->lines, &rec[i], thread, code))
            n->lines.oom = true;
        if (n->lines.len >= BATCH || n->lines.oom || i + 1 == count)
            err = jline_flush(&n->lines, &r->io);
    }
    return err;
}

static int put_lost(struct render *r, const struct model *m, const struct mp_lost *l)
{
    const struct model_thread *t = model_thread(m, l->thread_id);
    struct jline j;

    jline_begin(&j, "lost");
    jline_uint(&j, "count", l->count);
    jline_text(&j, "reason", render_lost_name(l->reason));
    if (l->thread_id)
        jline_uint(&j, "thread_id", l->thread_id);
    if (t && t->tid)
        jline_int(&j, "tid", t->tid);
    return jline_write(&j, &r->io);
}

static int put_stats(struct render *r, const struct mp_stats *s)
{
    struct jline j;

    jline_begin(&j, "stats");
    add_time(r, &j, s->time_ns);
    jline_uint(&j, "records", s->records);
    jline_uint(&j, "lost", s->lost);
    jline_uint(&j, "filtered", s->filtered);
    jline_uint(&j, "events", s->events);
    jline_uint(&j, "hook_ns", s->hook_ns);
    jline_uint(&j, "rollup_ns", s->rollup_ns);
    jline_uint(&j, "floor_ns", s->account.floor_ns);
    jline_uint(&j, "work_ns", s->account.work_ns);
    jline_uint(&j, "agent_ns", s->account.agent_ns);
    jline_uint(&j, "cost_ppm", s->account.cost_ppm);
    jline_uint(&j, "blind_ns", s->account.blind_ns);
    jline_uint(&j, "rest_ns", s->account.rest_ns);
    if (s->rss_bytes)
        jline_uint(&j, "rss_bytes", s->rss_bytes);
    if (s->uss_bytes)
        jline_uint(&j, "uss_bytes", s->uss_bytes);
    if (s->peak_bytes)
        jline_uint(&j, "peak_bytes", s->peak_bytes);
    jline_uint(&j, "threads", s->threads);
    jline_uint(&j, "codes", s->codes);
    return jline_write(&j, &r->io);
}

static int put_govern(struct render *r, const struct mp_govern *g)
{
    struct jline j;

    jline_begin(&j, "govern");
    add_time(r, &j, g->time_ns);
    jline_text(&j, "stage", render_stage_name(g->stage));
    jline_uint(&j, "depth", g->depth);
    jline_uint(&j, "weight", 1ull << g->sample_log2);
    jline_uint(&j, "rollup_budget_ppm", g->rollup_ppm);
    jline_uint(&j, "cost_ppm", g->cost_ppm);
    jline_uint(&j, "floor_ppm", g->floor_ppm);
    jline_uint(&j, "window_ns", g->window_ns);
    jline_uint(&j, "hook_ns", g->hook_ns);
    jline_uint(&j, "work_ns", g->work_ns);
    return jline_write(&j, &r->io);
}

static int put_note(struct render *r, const struct stream_event *ev)
{
    char *text = utf8_sanitise(ev->note.text, ev->note.head.text_len);
    struct jline j;

    jline_begin(&j, "note");
    jline_text(&j, "code", NAME_OF(note_names, ev->note.head.code));
    j.oom |= !text;
    jline_text(&j, "text", text ? text : "");
    free(text);
    return jline_write(&j, &r->io);
}

static int ndjson_event(struct render *r, const struct model *m, const struct stream_event *ev)
{
    switch (ev->type) {
    case MP_MSG_RECORDS:
        return put_records(r, m, ev->records.rec, ev->records.count);
    case MP_MSG_LOST:
        return put_lost(r, m, &ev->lost);
    case MP_MSG_STATS:
        return put_stats(r, &ev->stats);
    case MP_MSG_NOTE:
        return put_note(r, ev);
    case MP_MSG_GOVERN:
        return put_govern(r, &ev->govern);
    default:
        return 0;
    }
}

static int put_rank(struct render *r, const struct model_code *c, long rank)
{
    struct jline j;

    jline_begin(&j, "rank");
    jline_int(&j, "rank", rank);
    add_function(&j, c, c->id);
    jline_uint(&j, "calls", c->calls);
    if (c->measured != c->calls)
        jline_uint(&j, "measured_calls", c->measured);
    if (c->rss_calls) {
        jline_int(&j, "rss_net_bytes", c->rss_incl);
        jline_int(&j, "rss_self_bytes", c->rss_self);
        jline_int(&j, "rss_per_call_bytes", c->rss_incl / (int64_t)c->rss_calls);
        jline_int(&j, "rss_largest_call_bytes", c->rss_max_call);
    }
    if (c->own_calls) {
        jline_uint(&j, "own_net_bytes", c->own_incl);
        jline_uint(&j, "own_self_bytes", c->own_self);
    }
    jline_uint(&j, "time_ns", c->time_ns);
    jline_uint(&j, "self_ns", c->self_ns);
    jline_uint(&j, "raised_calls", c->raised);
    if (c->uss_calls) {
        jline_int(&j, "uss_net_bytes", c->uss_incl);
        jline_uint(&j, "uss_calls", c->uss_calls);
    }
    return jline_write(&j, &r->io);
}

static void add_residue(struct jline *j, const struct render_end *end)
{
    jline_array(j, "residue");
    for (size_t i = 0; i < sizeof(residue_names) / sizeof(residue_names[0]); i++)
        if (end->residue & residue_names[i].bit)
            jline_item(j, residue_names[i].name);
    jline_close(j, ']');
}

/* What is left, in words: residue_text's lines. */
static void add_left(struct jline *j, const char *text)
{
    size_t n;

    jline_array(j, "left");
    for (; text && *text; text += n + (text[n] == '\n')) {
        char *clean;

        n = strcspn(text, "\n");
        clean = n ? utf8_sanitise(text, n) : NULL;
        if (clean)
            jline_item(j, clean);
        free(clean);
    }
    jline_close(j, ']');
}

static void add_totals(struct jline *j, const struct model_totals *t)
{
    jline_uint(j, "calls", t->calls);
    jline_uint(j, "lines", t->lines);
    if (t->most_weight_log2)
        jline_uint(j, "calls_estimated", t->calls_estimated);
    jline_uint(j, "filtered", t->filtered);
    if (t->rss_first >= 0) {
        jline_int(j, "rss_first_bytes", t->rss_first);
        jline_int(j, "rss_last_bytes", t->rss_last);
        jline_int(j, "rss_growth_bytes", t->rss_last - t->rss_first);
        jline_int(j, "rss_unattributed_bytes", t->rss_unattributed);
        jline_int(j, "rss_shared_bytes", t->rss_shared);
    }
    jline_int(j, "rss_attributed_bytes", t->rss_attributed);
    jline_uint(j, "own_attributed_bytes", t->own_attributed);
    jline_bool(j, "overlap", t->overlap);
}

/* What --max-overhead took: how long it was in which stage, how far it went. */
static void add_governor(struct jline *j, const struct render_end *end)
{
    const struct mp_account *a = &end->account;

    jline_object(j, "governor");
    jline_text(j, "deepest_stage", render_stage_name(a->deepest));
    jline_uint(j, "least_depth", a->least_depth);
    jline_uint(j, "most_weight", 1ull << (a->most_sample_log2 & 63));
    jline_object(j, "stage_ns");
    for (uint32_t i = 0; i < MP_STAGES; i++)
        jline_uint(j, render_stage_name(i), a->stage_ns[i]);
    jline_close(j, '}');
    jline_close(j, '}');
}

static int put_end(struct render *r, const struct model *m, const struct render_end *end)
{
    struct model_totals t;
    struct jline j;

    model_totals(m, &t);
    jline_begin(&j, "end");
    jline_foreign(&j, "reason", end->reason);
    jline_bool(&j, "clean", end->clean);
    jline_uint(&j, "records", end->records);
    jline_uint(&j, "lost", end->lost);
    if (end->tail_missing)
        jline_bool(&j, "tail_missing", true);
    add_totals(&j, &t);
    jline_decimal(&j, "cost_percent", end->cost_pct);
    if (end->overhead_pct >= 0)
        jline_decimal(&j, "overhead_percent", end->overhead_pct);
    if (end->max_overhead_ppm)
        add_governor(&j, end);
    jline_uint(&j, "pause_ns", end->pause_ns);
    jline_uint(&j, "pause_sum_ns", end->pause_sum_ns);
    jline_uint(&j, "wall_ns", end->wall_ns);
    add_residue(&j, end);
    add_left(&j, end->residue_text);
    return jline_write(&j, &r->io);
}

static int ndjson_finish(struct render *r, const struct model *m, const struct render_end *end)
{
    const struct model_code **rank;
    long n = model_ranking(m, &rank);
    int err = 0;

    if (n < 0)
        return (int)n;
    for (long i = 0; i < n && !err; i++)
        err = put_rank(r, rank[i], i + 1);
    free(rank);
    return err ? err : put_end(r, m, end);
}

static const struct render_ops ndjson_ops = {ndjson_begin, ndjson_event, ndjson_finish, ndjson_release};

struct render *render_ndjson_new(const struct render_options *o)
{
    return render_new(o, &ndjson_ops);
}
