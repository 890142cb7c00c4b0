/* The last word of a session, for people. */
#include <inttypes.h>
#include <string.h>

#include "base/io.h"
#include "base/utf8.h"
#include "render/render.h"

#define RESIDUE_LINE 512
#define FLOOR_TOLD_PCT 0.5 /* from here on what a hook costs by its presence is told apart */

static bool verdict_target_gone(const struct render_end *end)
{
    return end->reason && (!strcmp(end->reason, "target_exited") || !strcmp(end->reason, "target_execed"));
}

/* What is left, a line each. */
static void verdict_residue(struct io *io, const struct render_end *end)
{
    const char *s = end->residue_text ? end->residue_text : "";
    char buf[RESIDUE_LINE];

    if (!*s)
        io_printf(io, "  (residue 0x%" PRIx32 ")\n", end->residue);
    while (*s) {
        size_t n = strcspn(s, "\n");

        if (n)
            io_printf(io, "  %s\n", utf8_sanitise_into(buf, sizeof(buf), s, n));
        s += n + (s[n] == '\n');
    }
}

/* The cost, and what its limit cost. */
static void verdict_cost(struct io *io, const struct render_end *end)
{
    const struct mp_account *a = &end->account;
    double floor = render_overhead_pct(a->floor_ns, a->work_ns);
    char given_up[RENDER_WORDS], goal[32], cost[96];

    io_puts(io, render_cost(cost, sizeof(cost), end->hook_ns, a->work_ns, end->cost_pct));
    if (floor >= FLOOR_TOLD_PCT && a->work_ns >= RENDER_WORK_MIN_NS)
        io_printf(io, ", %.2f%% by its presence alone", floor);
    if (end->max_overhead_ppm && *render_given_up(given_up, sizeof(given_up), a, end->depth))
        io_printf(io, " (given up for --max-overhead %s: %s)", render_ppm(goal, sizeof(goal), end->max_overhead_ppm),
                  given_up);
}

int render_verdict(FILE *out, pid_t pid, const struct render_end *end)
{
    struct io io = {.file = out};
    bool gone = verdict_target_gone(end);
    char pause[96];

    if (end->reason && !strcmp(end->reason, RENDER_END_CUT))
        io_printf(&io, "process %d closed or replaced the session's descriptors, so the agent left: ", (int)pid);
    else if (!gone)
        io_printf(&io, "detached from %d: ", (int)pid);
    else
        io_printf(&io, "process %d %s: ", (int)pid, strcmp(end->reason, "target_exited") ? "ran exec" : "ended");
    io_printf(&io, "%" PRIu64 " record%s, %" PRIu64 " lost, ", end->records, end->records == 1 ? "" : "s", end->lost);
    verdict_cost(&io, end);
    io_printf(&io, ", %s; ", render_pause(pause, sizeof(pause), end->pause_ns, end->pause_sum_ns, end->attempts));
    if (end->tail_missing)
        io_puts(&io, "what it did in its last moments (up to 0.1 s) is not in; ");
    if (end->clean)
        io_puts(&io, "nothing left behind\n");
    else
        io_puts(&io, end->unseen ? "what is LEFT BEHIND could not be looked at:\n" : "LEFT BEHIND:\n");
    if (!end->clean)
        verdict_residue(&io, end);
    return io.err;
}
