/* The live text stream: one greppable line per record, fixed columns first, names
 * last. '#' begins every line that is not a record.
 *
 *   #TIME            TID THREAD            DUR       RSS       OWN       USS  FUNCTION                      FILE:LINE
 *   14:03:22.123   12345 MainThread     1.23 ms  +1.5 MiB   1.5 MiB         -  handle                        app.py:41
 *
 * Sizes with a sign are changes, without one they are levels (line records) or
 * pages faulted in (OWN); "-" is "not measured". */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"
#include "base/utf8.h"
#include "render/render_priv.h"

#define TIME_COLS 12
#define TID_COLS 7
#define THREAD_COLS 14
#define DUR_COLS 7
#define SIZE_COLS 9
#define FUNCTION_COLS 30 /* where nothing is cut */
#define INDENT 2
#define INDENT_MAX 20u /* levels shown by indentation; deeper ones look alike */
#define NAMES_MIN 24   /* function and file together, on any terminal that has them */

/* Columns of a layout. A terminal too narrow for all gives up TID and USS. */
#define COLS_FULL (TIME_COLS + TID_COLS + THREAD_COLS + DUR_COLS + 3 * SIZE_COLS + 7 + 1)
#define COLS_SHORT (TIME_COLS + THREAD_SHORT_COLS + DUR_COLS + 2 * SIZE_COLS + 5 + 1)
#define THREAD_SHORT_COLS 10
#define WIDTH_FULL 110 /* from here on a terminal gets all columns */

#define CELL 4096
#define LINE (2 * CELL + 256)

struct row {
    char text[LINE];
    size_t mark, mark_len; /* bytes to colour: the RSS cell */
};

static void row_begin(struct row *row)
{
    row->text[0] = 0; /* the rest of it needs no zeroes: one is made per record */
    row->mark = row->mark_len = 0;
}

/* Text of one cell and the space behind it. */
static void row_left(struct row *row, const char *s, unsigned cols)
{
    text_append(row->text, sizeof(row->text), s, cols);
    text_append(row->text, sizeof(row->text), " ", 1);
}

static void row_right(struct row *row, const char *s, unsigned cols)
{
    text_append_right(row->text, sizeof(row->text), s, cols);
    text_append(row->text, sizeof(row->text), " ", 1);
}

static void row_size(struct row *row, bool measured, int64_t bytes, bool sign)
{
    char buf[32] = "-";

    row_right(row, measured ? render_size(buf, sizeof(buf), bytes, sign) : buf, SIZE_COLS);
}

static bool is_short(const struct render *r)
{
    return r->width && r->width < WIDTH_FULL;
}

/* Columns of the function's cell: on a terminal the larger half of what is left for names. */
static unsigned function_cols(const struct render *r)
{
    unsigned used = is_short(r) ? COLS_SHORT : COLS_FULL;

    if (!r->width)
        return FUNCTION_COLS;
    return (r->width > used + NAMES_MIN ? r->width - used : NAMES_MIN) * 11 / 20;
}

static int row_write(struct render *r, struct row *row, const char *color)
{
    size_t len = strlen(row->text);

    if (!r->color || !*color) {
        row->text[len] = '\n'; /* in the place of its NUL */
        return io_write(&r->io, row->text, len + 1);
    }
    return io_printf(&r->io, "%.*s%s%.*s%s%s\n", (int)row->mark, row->text, color, (int)row->mark_len,
                     row->text + row->mark, COLOR_OFF, row->text + row->mark + row->mark_len);
}

static void row_when_who(struct render *r, struct row *row, const struct model *m, const struct mp_record *rec)
{
    const struct model_thread *t = model_thread(m, rec->thread_id);
    unsigned cols = is_short(r) ? THREAD_SHORT_COLS : THREAD_COLS;
    char buf[4 * THREAD_COLS + 32], tid[16];

    row_left(row, time_local(&r->clock, buf, sizeof(buf), (int64_t)(rec->time_ns + (uint64_t)r->realtime_offset_ns)),
             TIME_COLS);
    snprintf(tid, sizeof(tid), t && t->tid ? "%d" : "?", t ? t->tid : 0);
    if (!is_short(r))
        row_right(row, tid, TID_COLS);
    row_left(row, text_fit(buf, sizeof(buf), t && *t->name ? t->name : tid, cols, TEXT_KEEP_ENDS), cols);
}

static void row_function(struct render *r, struct row *row, const struct model_code *c, const struct mp_record *rec)
{
    unsigned level = rec->depth - (!r->rooted && rec->depth), shown = level < INDENT_MAX ? level : INDENT_MAX;
    const char *end = rec->flags & MP_REC_RAISED ? " (raised)" : rec->flags & MP_REC_YIELDED ? " (yielded)" : "";
    char cell[CELL], name[3 * MP_NAME_MAX + 1], weighted[32];
    unsigned cols = function_cols(r), room = 0;

    if (rec->type == MP_REC_LINE) {
        shown++;
        end = "";
    }
    if (rec->weight_log2) {
        snprintf(weighted, sizeof(weighted), "%s x%u", end, 1u << rec->weight_log2);
        end = weighted;
    }
    if (r->width) {
        shown = shown * INDENT > cols / 2 ? cols / 2 / INDENT : shown;
        room = shown * INDENT + strlen(end) < cols ? cols - shown * INDENT - (unsigned)strlen(end) : 1;
    }
    text_fit(name, sizeof(name), c ? c->name : "?", room, TEXT_KEEP_ENDS);
    snprintf(cell, sizeof(cell), "%*s%s%s", (int)(shown * INDENT), "", name, end);
    text_append(row->text, sizeof(row->text), " ", 1);
    row_left(row, cell, cols);
}

/* The last cell: on a terminal the path loses its front, never the line number. */
static void row_place(struct render *r, struct row *row, const struct model_code *c, uint32_t line)
{
    char cell[CELL], cut[CELL];
    unsigned used = utf8_width(row->text), room = 0;

    snprintf(cell, sizeof(cell), "%s:%" PRIu32, c ? c->file : "?", line);
    if (r->width)
        room = r->width > used ? r->width - used : 1;
    text_append(row->text, sizeof(row->text), text_fit(cut, sizeof(cut), cell, room, TEXT_KEEP_TAIL), 0);
}

/* A terminal narrower than the fixed columns: the line ends at its edge. */
static void row_cut(const struct render *r, struct row *row)
{
    unsigned cols = 0;
    size_t i = 0, len = strlen(row->text);

    while (r->width && i < len) {
        uint32_t cp;
        size_t n = utf8_decode(row->text + i, len - i, &cp);

        cols += utf8_char_width(cp);
        if (cols > r->width) {
            row->text[i] = 0;
            if (row->mark + row->mark_len > i)
                row->mark = row->mark_len = 0;
            return;
        }
        i += n;
    }
}

static int text_call(struct render *r, const struct model *m, const struct mp_record *rec)
{
    const struct model_code *c = model_code(m, rec->code_id);
    int64_t rss = (int64_t)rec->rss_delta_pages * (int64_t)r->page_size;
    bool has_rss = rec->flags & MP_REC_HAS_RSS;
    struct row row;
    char buf[32];

    row_begin(&row);
    row_when_who(r, &row, m, rec);
    row_right(&row, render_duration(buf, sizeof(buf), rec->dur_ns), DUR_COLS);
    row.mark = strlen(row.text);
    row_size(&row, has_rss, rss, true);
    row.mark_len = strlen(row.text) - row.mark - 1;
    row_size(&row, rec->flags & MP_REC_HAS_OWN, (int64_t)rec->own_pages * (int64_t)r->page_size, false);
    if (!is_short(r))
        row_size(&row, rec->flags & MP_REC_HAS_USS_DELTA, rec->uss_delta, true);
    row_function(r, &row, c, rec);
    row_place(r, &row, c, c ? c->firstlineno : 0);
    row_cut(r, &row);
    return row_write(r, &row, has_rss ? render_color_of(rss) : "");
}

static int text_line(struct render *r, const struct model *m, const struct mp_record *rec)
{
    const struct model_code *c = model_code(m, rec->code_id);
    struct row row;

    row_begin(&row);
    row_when_who(r, &row, m, rec);
    row_right(&row, "line", DUR_COLS);
    row_size(&row, rec->flags & MP_REC_HAS_RSS, (int64_t)rec->rss_pages * (int64_t)r->page_size, false);
    row_size(&row, rec->flags & MP_REC_HAS_OWN, (int64_t)rec->own_pages * (int64_t)r->page_size, false);
    if (!is_short(r))
        row_size(&row, rec->flags & MP_REC_HAS_USS, (int64_t)rec->uss_bytes, false);
    row_function(r, &row, c, rec);
    row_place(r, &row, c, rec->line);
    row_cut(r, &row);
    return row_write(r, &row, "");
}

static int text_lost(struct render *r, const struct mp_lost *l)
{
    return io_printf(&r->io, "# lost %" PRIu64 " records (%s)\n", l->count, render_lost_text(l->reason));
}

static int text_note(struct render *r, const struct stream_event *ev)
{
    char buf[CELL];

    return io_printf(&r->io, "# note: %s\n",
                     utf8_sanitise_into(buf, sizeof(buf), ev->note.text, ev->note.head.text_len));
}

/* What is in force from now on, and the cost that led to it. */
static int text_govern(struct render *r, const struct mp_govern *g)
{
    uint32_t judged = g->cost_ppm > g->floor_ppm ? g->cost_ppm - g->floor_ppm : 0;
    char when[4 * THREAD_COLS], cost[32], floor[32], goal[32], words[RENDER_WORDS];

    time_local(&r->clock, when, sizeof(when), (int64_t)(g->time_ns + (uint64_t)r->realtime_offset_ns));
    return io_printf(&r->io, "# %s governor: hook cost %s%s%s (--max-overhead %s), now %s\n", when,
                     render_ppm(cost, sizeof(cost), judged), g->floor_ppm ? ", by its presence " : "",
                     g->floor_ppm ? render_ppm(floor, sizeof(floor), g->floor_ppm) : "",
                     render_ppm(goal, sizeof(goal), r->asked.max_overhead_ppm),
                     render_in_force(words, sizeof(words), g, &r->asked));
}

static int text_event(struct render *r, const struct model *m, const struct stream_event *ev)
{
    switch (ev->type) {
    case MP_MSG_RECORDS:
        for (unsigned i = 0; i < ev->records.count && !r->io.err; i++) {
            const struct mp_record *rec = &ev->records.rec[i];

            (void)(rec->type == MP_REC_LINE ? text_line(r, m, rec) : text_call(r, m, rec));
        }
        return r->io.err;
    case MP_MSG_LOST:
        return text_lost(r, &ev->lost);
    case MP_MSG_NOTE:
        return text_note(r, ev);
    case MP_MSG_GOVERN:
        return text_govern(r, &ev->govern);
    default:
        return 0;
    }
}

/* How exact the columns are in this process, where they are not. */
static void text_exactness(struct render *r, const struct render_meta *meta)
{
    const struct mp_selftest *t = &meta->selftest;
    int64_t off = t->statm_error < 0 ? -(int64_t)t->statm_error : t->statm_error;

    if (!(t->flags & MP_SELF_STATM))
        io_puts(&r->io, "# RSS: /proc/self/statm can't be read; not measured\n");
    else if (off)
        io_printf(&r->io, "# RSS: statm is exact to +-%" PRId64 " pages of %" PRIu64 " KiB on this kernel\n", off,
                  r->page_size / 1024);
    if (t->flags & MP_SELF_SYNC)
        io_puts(&r->io, "# RSS: up to 64 pages of each other thread are counted late by this kernel\n");
    if (t->minflt_error)
        io_printf(&r->io, "# OWN: the count of page faults was %+" PRId32 " pages off in the self-test\n",
                  t->minflt_error);
    if (t->flags & MP_SELF_THP)
        io_puts(&r->io, "# OWN: huge pages are on here (THP): one fault may bring 2 MiB, so OWN is a lower bound\n");
    if (t->flags & MP_SELF_ROLLUP_LONG)
        io_printf(&r->io, "# USS: a reading of smaps_rollup would hold the target for over %llu ms; not measured (--max-overhead 0 does)\n",
                  MP_ROLLUP_NS_MAX / 1000000);
    else if (!(t->flags & MP_SELF_ROLLUP) && !(meta->options.flags & MP_OPT_NO_ROLLUP))
        io_puts(&r->io, "# USS: smaps_rollup can't be read; not measured\n");
}

static void text_columns(struct render *r)
{
    struct row row;

    row_begin(&row);
    row_left(&row, "#TIME", TIME_COLS);
    if (!is_short(r))
        row_right(&row, "TID", TID_COLS);
    row_left(&row, "THREAD", is_short(r) ? THREAD_SHORT_COLS : THREAD_COLS);
    row_right(&row, "DUR", DUR_COLS);
    row_right(&row, "RSS", SIZE_COLS);
    row_right(&row, "OWN", SIZE_COLS);
    if (!is_short(r))
        row_right(&row, "USS", SIZE_COLS);
    text_append(row.text, sizeof(row.text), " ", 1);
    row_left(&row, "FUNCTION", function_cols(r));
    text_append(row.text, sizeof(row.text), "FILE:LINE", 0);
    row_cut(r, &row);
    row.mark_len = strlen(row.text);
    row.mark = 0;
    row_write(r, &row, COLOR_BOLD);
}

static int text_begin(struct render *r, const struct render_meta *meta)
{
    char exe[CELL];

    utf8_sanitise_into(exe, sizeof(exe), meta->exe ? meta->exe : "", meta->exe ? strlen(meta->exe) : 0);
    io_printf(&r->io, "# mempulse %s: process %d, CPython %" PRIu32 ".%" PRIu32 ".%" PRIu32 "%s%s%s\n",
              meta->tool_version ? meta->tool_version : "?", (int)meta->pid, meta->py_version >> 24,
              meta->py_version >> 16 & 255, meta->py_version >> 8 & 255, *exe ? " (" : "", exe, *exe ? ")" : "");
    text_exactness(r, meta);
    io_puts(&r->io, "# a call is written when it returns, below the calls it made\n");
    if (r->lines)
        io_puts(&r->io, "# a line record is written when the line begins: RSS and USS are levels,"
                        " OWN is since the thread's previous line\n");
    text_columns(r);
    return r->io.err;
}

static int text_finish(struct render *r, const struct model *m, const struct render_end *end)
{
    struct model_totals t;
    char reason[128];

    model_totals(m, &t);
    utf8_sanitise_into(reason, sizeof(reason), end->reason ? end->reason : "?",
                       end->reason ? strlen(end->reason) : 1);
    io_printf(&r->io, "# end: %s; %" PRIu64 " records, %" PRIu64 " lost", reason, end->records, end->lost);
    if (t.filtered)
        io_printf(&r->io, ", %" PRIu64 " below --min-bytes or --min-time", t.filtered);
    return io_puts(&r->io, "\n");
}

static const struct render_ops text_ops = {text_begin, text_event, text_finish};

struct render *render_text_new(const struct render_options *o)
{
    return render_new(o, &text_ops);
}
