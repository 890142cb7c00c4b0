/* The table of the original mempulse (format_trace_result): one row per executed
 * line, in order of first execution, with its first visit's figures. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/io.h"
#include "base/text.h"
#include "base/utf8.h"
#include "render/render.h"

#define CALLSITE_COLS 64
#define METHOD_COLS 24
#define FIGURE_COLS 16
#define RULE_COLS 140
#define CELL (MP_PATH_MAX * 4 + 64)

/* s, or "..." and its last cols - 3 characters. Python counts code points, not
 * columns, in len(), slices and format widths; so does this. */
static void put_cell(struct io *io, const char *s, size_t cols)
{
    size_t count = utf8_count(s), left = strlen(s), skip = count > cols ? count - (cols - 3) : 0;

    if (skip)
        io_puts(io, "...");
    for (; skip; skip--) {
        uint32_t cp;
        size_t n = utf8_decode(s, left, &cp);

        s += n;
        left -= n;
    }
    io_printf(io, "%s%*s ", s, count < cols ? (int)(cols - count) : 0, "");
}

static void put_figure(struct io *io, bool measured, uint64_t bytes, const char *end)
{
    char buf[32] = "-1";

    io_printf(io, "%*s%s", FIGURE_COLS, measured ? text_thousands(buf, sizeof(buf), bytes) : buf, end);
}

/* co_name: the last part of a qualified name. */
static const char *bare_name(const char *name)
{
    const char *dot = strrchr(name, '.');

    return dot && dot[1] ? dot + 1 : name;
}

static void put_line(struct io *io, const struct model *m, const struct model_line *l)
{
    const struct model_code *c = model_code(m, l->code_id);
    char callsite[CELL];

    snprintf(callsite, sizeof(callsite), "%s:%" PRIu32, c ? c->file : "?", l->line);
    put_cell(io, callsite, CALLSITE_COLS);
    put_cell(io, c ? bare_name(c->name) : "?", METHOD_COLS);
    put_figure(io, l->has_uss, l->first_uss, " ");
    put_figure(io, l->has_uss, l->first_swap, " ");
    put_figure(io, l->has_peak, l->first_peak, "\n");
}

int render_mempulse(FILE *out, const struct model *m)
{
    struct io io = {.file = out};
    const struct model_line **lines;
    char rule[RULE_COLS + 1];
    long n = model_lines(m, &lines);

    if (n < 0)
        return (int)n;
    memset(rule, '-', RULE_COLS);
    rule[RULE_COLS] = 0;
    io_printf(&io, "%-*s %-*s %*s %*s %*s\n%s\n", CALLSITE_COLS, "Callsite", METHOD_COLS, "Method Name", FIGURE_COLS,
              "USS", FIGURE_COLS, "Swap", FIGURE_COLS, "Peak RSS", rule);
    for (long i = 0; i < n; i++)
        put_line(&io, m, lines[i]);
    io_puts(&io, "\n");
    free(lines);
    return io.err;
}
