/* What the governor does, in words (see render.h). */
#include "render/render.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const char *const stage_names[MP_STAGES] = {
    [MP_STAGE_FULL] = "full",       [MP_STAGE_ROLLUP] = "rollup", [MP_STAGE_DEPTH] = "depth",
    [MP_STAGE_SAMPLED] = "sampled", [MP_STAGE_QUIET] = "quiet",
};

const char *render_stage_name(uint32_t stage)
{
    return stage < MP_STAGES ? stage_names[stage] : "unknown";
}

double render_overhead_pct(uint64_t hook_ns, uint64_t work_ns)
{
    return work_ns ? 100.0 * (double)hook_ns / (double)work_ns : -1;
}

char *render_cost(char *buf, size_t len, uint64_t hook_ns, uint64_t work_ns, double cost_pct)
{
    char absolute[32];

    if (!work_ns)
        snprintf(buf, len, "hook cost %.2f%% of a CPU", cost_pct);
    else if (work_ns < RENDER_WORK_MIN_NS)
        snprintf(buf, len, "hook cost %s", render_duration(absolute, sizeof(absolute), hook_ns));
    else
        snprintf(buf, len, "hook cost %.2f%% (%.2f%% of a CPU)", render_overhead_pct(hook_ns, work_ns), cost_pct);
    return buf;
}

char *render_ppm(char *buf, size_t len, uint64_t ppm)
{
    double pct = (double)ppm / 10000.0;

    snprintf(buf, len, pct < 99.95 ? "%.3g%%" : "%.0f%%", pct);
    return buf;
}

/* Items of a list, with commas between. */
static void list_add(char *buf, size_t len, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
static void list_add(char *buf, size_t len, const char *fmt, ...)
{
    size_t at = strlen(buf);
    va_list ap;

    if (at && at + 2 < len) {
        memcpy(buf + at, ", ", 3);
        at += 2;
    }
    va_start(ap, fmt);
    vsnprintf(buf + at, len - at, fmt, ap);
    va_end(ap);
}

char *render_in_force(char *buf, size_t len, const struct mp_govern *g, const struct mp_options *asked)
{
    char pct[32];

    *buf = 0;
    if (g->stage == MP_STAGE_QUIET) {
        snprintf(buf, len, "nothing is traced");
        return buf;
    }
    if (g->rollup_ppm < asked->rollup_budget_ppm && !(asked->flags & MP_OPT_NO_ROLLUP))
        list_add(buf, len, "smaps_rollup at most %s of the time", render_ppm(pct, sizeof(pct), g->rollup_ppm));
    if (g->depth < asked->depth)
        list_add(buf, len, "depth %" PRIu32 " of %" PRIu32, g->depth, asked->depth);
    if (g->sample_log2 && g->sample_log2 <= MP_SAMPLE_LOG2_MAX)
        list_add(buf, len, "1 call in %u", 1u << g->sample_log2);
    if (!*buf)
        snprintf(buf, len, "all that was asked for");
    return buf;
}

char *render_given_up(char *buf, size_t len, const struct mp_account *a, uint32_t depth)
{
    char t[32];

    *buf = 0;
    if (a->stage_ns[MP_STAGE_ROLLUP])
        list_add(buf, len, "smaps_rollup more rarely for %s",
                 render_duration(t, sizeof(t), a->stage_ns[MP_STAGE_ROLLUP]));
    if (a->stage_ns[MP_STAGE_DEPTH])
        list_add(buf, len, "depth down to %" PRIu32 " of %" PRIu32 " for %s", a->least_depth, depth,
                 render_duration(t, sizeof(t), a->stage_ns[MP_STAGE_DEPTH]));
    if (a->stage_ns[MP_STAGE_SAMPLED] && a->most_sample_log2 <= MP_SAMPLE_LOG2_MAX)
        list_add(buf, len, "1 call in up to %u for %s", 1u << a->most_sample_log2,
                 render_duration(t, sizeof(t), a->stage_ns[MP_STAGE_SAMPLED]));
    if (a->stage_ns[MP_STAGE_QUIET])
        list_add(buf, len, "nothing traced for %s", render_duration(t, sizeof(t), a->stage_ns[MP_STAGE_QUIET]));
    return buf;
}
