/* Who grew: the functions by net self growth, what no function explains, the sum.
 * Column widths follow the content; names give way, figures never. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/io.h"
#include "base/text.h"
#include "base/utf8.h"
#include "render/render.h"
#include "render/render_priv.h"

#define NAME_MIN 14 /* "(unattributed)" */
#define NAMES_ROOM 32 /* a terminal that leaves less to the names loses columns instead */
#define PLACE_MIN 10
#define WIDE 60 /* longest name shown where nothing is cut to a terminal */
#define CELL 4096
#define SHORT 32
#define GAP 2

enum column { COL_CALLS, COL_NET, COL_SELF, COL_OWN, COL_PER_CALL, COL_LARGEST, COL_TIME, COLS };

static const char *const titles[COLS] = {"CALLS", "NET", "SELF", "OWN", "PER CALL", "LARGEST", "TIME"};

struct rank_row {
    char *name, *place; /* owned */
    char cell[COLS][SHORT];
    int64_t self;       /* colours the SELF cell */
};

struct table {
    struct rank_row *rows;
    size_t count, room;
    unsigned name_cols, place_cols, cols[COLS]; /* cols 0: not shown */
    bool oom;
};

static struct rank_row *table_add(struct table *t, const char *name, const char *place)
{
    static struct rank_row dummy; /* written, never read: memory ran out */
    struct rank_row *row = t->count < t->room ? &t->rows[t->count] : NULL;

    if (row) {
        memset(row, 0, sizeof(*row));
        row->name = strdup(name);
        row->place = strdup(place);
        t->count++;
    }
    t->oom |= !row || !row->name || !row->place;
    return row ? row : &dummy;
}

static void table_release(struct table *t)
{
    for (size_t i = 0; i < t->count; i++) {
        free(t->rows[i].name);
        free(t->rows[i].place);
    }
    free(t->rows);
}

static void cell_size(struct rank_row *row, enum column col, int64_t bytes, bool sign)
{
    render_size(row->cell[col], SHORT, bytes, sign);
}

static void cell_count(struct rank_row *row, uint64_t n)
{
    text_thousands(row->cell[COL_CALLS], SHORT, n);
}

/* Figures made of samples carry a mark. */
static void cell_estimated(struct rank_row *row, enum column col)
{
    char exact[SHORT];

    memcpy(exact, row->cell[col], sizeof(exact));
    if (*exact)
        snprintf(row->cell[col], SHORT, "~%.*s", SHORT - 2, exact);
}

static void row_estimated(struct rank_row *row)
{
    static const enum column marked[] = {COL_CALLS, COL_NET, COL_SELF, COL_OWN, COL_PER_CALL, COL_TIME};

    for (size_t i = 0; i < sizeof(marked) / sizeof(marked[0]); i++)
        cell_estimated(row, marked[i]);
}

static void cell_self(struct rank_row *row, int64_t bytes)
{
    cell_size(row, COL_SELF, bytes, true);
    row->self = bytes;
}

static void cell_own(struct rank_row *row, uint64_t bytes)
{
    cell_size(row, COL_OWN, bytes > INT64_MAX ? INT64_MAX : (int64_t)bytes, false);
}

static void table_function(struct table *t, const struct model_code *c)
{
    char place[CELL];
    struct rank_row *row;

    snprintf(place, sizeof(place), "%s:%" PRIu32, c->file, c->firstlineno);
    row = table_add(t, c->name, place);
    cell_count(row, c->calls);
    if (c->rss_calls) {
        cell_size(row, COL_NET, c->rss_incl, true);
        cell_self(row, c->rss_self);
        cell_size(row, COL_PER_CALL, c->rss_incl / (int64_t)c->rss_calls, true);
        cell_size(row, COL_LARGEST, c->rss_max_call, true);
    }
    if (c->own_calls)
        cell_own(row, c->own_self);
    render_duration(row->cell[COL_TIME], SHORT, c->time_ns);
    if (c->measured != c->calls)
        row_estimated(row);
}

/* The functions that a terminal has no room for, in one row. */
static void table_rest(struct table *t, const struct model_code **rank, long n)
{
    uint64_t calls = 0, own = 0, measured = 0;
    int64_t self = 0;
    char name[64];
    struct rank_row *row;

    for (long i = 0; i < n; i++) {
        calls += rank[i]->calls;
        measured += rank[i]->measured;
        own = own > UINT64_MAX - rank[i]->own_self ? UINT64_MAX : own + rank[i]->own_self;
        if (__builtin_add_overflow(self, rank[i]->rss_self, &self))
            self = rank[i]->rss_self < 0 ? INT64_MIN : INT64_MAX;
    }
    snprintf(name, sizeof(name), "(%ld more functions)", n);
    row = table_add(t, name, "");
    cell_count(row, calls);
    cell_self(row, self);
    cell_own(row, own);
    if (measured != calls)
        row_estimated(row);
}

static void table_sums(struct table *t, const struct model_totals *sum)
{
    struct rank_row *row = table_add(t, "(unattributed)", "");

    if (sum->rss_first >= 0)
        cell_self(row, sum->rss_unattributed);
    if (sum->most_weight_log2)
        row_estimated(row);
    row = table_add(t, "TOTAL", "");
    cell_count(row, sum->calls_estimated);
    cell_own(row, sum->own_attributed);
    if (sum->most_weight_log2)
        row_estimated(row);
    if (sum->rss_first >= 0) /* the process's own growth is always measured */
        cell_self(row, sum->rss_last - sum->rss_first);
}

static int table_fill(struct table *t, const struct model *m, unsigned width)
{
    const struct model_code **rank;
    struct model_totals sum;
    long n = model_ranking(m, &rank), shown = n;

    if (n < 0)
        return (int)n;
    if (width && n > RENDER_RANK_ROWS)
        shown = RENDER_RANK_ROWS;
    t->room = (size_t)shown + 3;
    t->rows = calloc(t->room, sizeof(*t->rows));
    t->oom = !t->rows;
    for (long i = 0; i < shown && !t->oom; i++)
        table_function(t, rank[i]);
    if (shown < n && !t->oom)
        table_rest(t, rank + shown, n - shown);
    free(rank);
    model_totals(m, &sum);
    if (!t->oom)
        table_sums(t, &sum);
    return t->oom ? -ENOMEM : 0;
}

static unsigned widest(unsigned a, unsigned b)
{
    return a > b ? a : b;
}

static unsigned table_figures(const struct table *t)
{
    unsigned n = 0;

    for (unsigned c = 0; c < COLS; c++)
        n += t->cols[c] ? t->cols[c] + GAP : 0;
    return n;
}

/* Widths of the figures; a narrow terminal does without those that others imply. */
static void table_measure_figures(struct table *t, unsigned width)
{
    static const enum column drop[] = {COL_PER_CALL, COL_LARGEST, COL_TIME};

    for (unsigned c = 0; c < COLS; c++) {
        t->cols[c] = utf8_width(titles[c]);
        for (size_t i = 0; i < t->count; i++)
            t->cols[c] = widest(t->cols[c], utf8_width(t->rows[i].cell[c]));
    }
    for (size_t i = 0; width && i < sizeof(drop) / sizeof(drop[0]); i++)
        if (table_figures(t) + GAP + NAMES_ROOM > width)
            t->cols[drop[i]] = 0;
}

static void table_measure(struct table *t, unsigned width)
{
    unsigned figures, name = NAME_MIN, place = PLACE_MIN, room;

    table_measure_figures(t, width);
    figures = table_figures(t);
    for (size_t i = 0; i < t->count; i++) {
        name = widest(name, utf8_width(t->rows[i].name));
        place = widest(place, utf8_width(t->rows[i].place));
    }
    room = width ? width > figures + GAP ? width - figures - GAP : 0 : 2 * WIDE;
    if (name + place > room) { /* the name has the larger half; what one does not need the other gets */
        unsigned half = room * 11 / 20;

        name = name <= half ? name : widest(half, place < room - half ? room - place : 0);
        place = room > name ? room - name : 0;
    }
    t->name_cols = widest(name, NAME_MIN);
    t->place_cols = widest(place, PLACE_MIN);
}

static void put_names(struct io *io, const struct table *t, const char *name, const char *place)
{
    char cell[CELL], line[2 * CELL] = "";

    text_append(line, sizeof(line), text_fit(cell, sizeof(cell), name, t->name_cols, TEXT_KEEP_ENDS),
                t->name_cols + GAP);
    text_append(line, sizeof(line), text_fit(cell, sizeof(cell), place, t->place_cols, TEXT_KEEP_TAIL), t->place_cols);
    io_puts(io, line);
}

static void put_row(struct io *io, const struct table *t, const struct rank_row *row, bool color)
{
    put_names(io, t, row->name, row->place);
    for (unsigned c = 0; c < COLS; c++) {
        const char *on = color && c == COL_SELF ? render_color_of(row->self) : "";
        char cell[2 * SHORT] = "";

        if (!t->cols[c])
            continue;
        text_append_right(cell, sizeof(cell), *row->cell[c] ? row->cell[c] : "-", t->cols[c]);
        io_printf(io, "%*s%s%s%s", GAP, "", on, cell, *on ? COLOR_OFF : "");
    }
    io_puts(io, "\n");
}

static void put_titles(struct io *io, const struct table *t, bool color)
{
    io_puts(io, color ? COLOR_BOLD : "");
    put_names(io, t, "FUNCTION", "FILE:LINE");
    for (unsigned c = 0; c < COLS; c++)
        if (t->cols[c])
            io_printf(io, "%*s%*s", GAP, "", (int)t->cols[c], titles[c]);
    io_printf(io, "%s\n", color ? COLOR_OFF : "");
}

static void put_rule(struct io *io, const struct table *t)
{
    unsigned n = t->name_cols + GAP + t->place_cols + table_figures(t);

    while (n--)
        io_puts(io, "-");
    io_puts(io, "\n");
}

/* What the hook did not look at, and said so to nobody but the account. */
static void put_left_out(struct io *io, const struct mp_account *a)
{
    char t[32];

    if (a->deepest >= MP_STAGE_DEPTH && a->least_depth)
        io_printf(io, "To keep the cost down the depth was cut, to %" PRIu32 " at the least: what deeper calls took then is in\n"
                      "their callers, or unattributed.\n", a->least_depth);
    if (a->stage_ns[MP_STAGE_QUIET])
        io_printf(io, "To keep the cost down nothing was traced for %s.\n",
                  render_duration(t, sizeof(t), a->stage_ns[MP_STAGE_QUIET]));
    if (a->blind_ns)
        io_printf(io, "Functions that had only been called below the depth were looked at again every %s at the longest.\n",
                  render_duration(t, sizeof(t), a->blind_ns));
    if (a->rest_ns)
        io_printf(io, "The hook was off for %s in all while a thread was deep on its stack: other threads' calls then are not in.\n",
                  render_duration(t, sizeof(t), a->rest_ns));
}

static void put_footnotes(struct io *io, const struct table *t, const struct model *m)
{
    struct model_totals sum;
    char a[32], b[32];

    model_totals(m, &sum);
    if (sum.rss_first >= 0)
        io_printf(io, "Process RSS went from %s to %s.\n", render_size(a, sizeof(a), sum.rss_first, false),
                  render_size(b, sizeof(b), sum.rss_last, false));
    io_printf(io, "NET: RSS change of the process over the calls, callees included%s.\n",
              t->cols[COL_PER_CALL] ? " (PER CALL, LARGEST: of NET)" : "");
    io_puts(io, "SELF: NET less traced callees, and less what was released again in the caller: what the function keeps.\n"
                "OWN: pages faulted in by the calling thread, without callees; never decreases.\n");
    if (sum.overlap)
        io_puts(io, "Calls of several threads overlapped: NET may hold one growth twice; OWN does not.\n");
    if (sum.rss_shared)
        io_printf(io, "SELF is estimated for %s of releases: threads hid them from one another, and they are shared out\n"
                      "by the releases that were seen, then by what went during calls.\n",
                  render_size(a, sizeof(a), sum.rss_shared, false));
    if (sum.most_weight_log2)
        io_printf(io, "~: estimated. To keep the cost down calls were sampled, 1 in %u at the rarest; %" PRIu64
                  " were measured.\n", 1u << sum.most_weight_log2, sum.calls);
    put_left_out(io, &sum.account);
    if (sum.lost[0])
        io_printf(io, "%" PRIu64 " records were lost: their growth is in their callers, or unattributed.\n",
                  sum.lost[0]);
    if (sum.filtered)
        io_printf(io, "%" PRIu64 " calls below --min-bytes or --min-time were not recorded.\n", sum.filtered);
}

int render_ranking(FILE *out, const struct model *m, bool color, unsigned width)
{
    struct io io = {.file = out};
    struct table t = {0};
    int err = table_fill(&t, m, width);

    if (!err) {
        size_t sums = t.count - 2;

        table_measure(&t, width);
        put_titles(&io, &t, color);
        for (size_t i = 0; i < sums; i++)
            put_row(&io, &t, &t.rows[i], color);
        put_rule(&io, &t);
        put_row(&io, &t, &t.rows[sums], color);
        put_row(&io, &t, &t.rows[sums + 1], color);
        put_footnotes(&io, &t, m);
    }
    table_release(&t);
    return err ? err : io.err;
}
