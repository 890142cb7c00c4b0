/* The governor's policy: from what a window cost to what is in force next. Pure:
 * knows no clock, no thread, no Python; tests/unit/test_policy.c runs it natively.
 *
 * One order, both ways:
 *
 *     FULL ── ROLLUP ─────────── DEPTH ────────── SAMPLED ──────── QUIET
 *             budget / 4 … / 64  less, down to 1  1 in 2 … 1024    nothing
 *     ── over the room: one cut a window ──▶
 *     ◀── at most half the room for `hold` windows: one step back ──
 *
 * A cut that comes soon after a step back means that the step was one too many: the
 * next one waits twice as long, up to POLICY_HOLD_MAX windows; a step that proves
 * itself halves the wait again.
 *
 * A process that works less than a tenth of a CPU is judged as if it worked that much:
 * it has time to spare, and a few probes beside next to no work would look dear.
 *
 * Only the cost of what is traced is judged. What a hook costs by being there (the
 * floor) goes with the hook alone: it takes its part of the goal, but no more than half
 * (what it leaves is the room), since letting it decide would end in tracing nothing, for the price of a hook. */
#ifndef AGENT_POLICY_H
#define AGENT_POLICY_H

#include <stdbool.h>
#include <stdint.h>

#include "limits.h"
#include "wire.h"

#define POLICY_HOLD_MIN 2u  /* windows of calm before a step back */
#define POLICY_HOLD_MAX 64u
#define POLICY_TRIAL 4u     /* a cut within so many windows of a step back puts the step in the wrong */
#define POLICY_SPARE 10u /* 1 / so much of a CPU is the least work that cost is compared with */
#define POLICY_ROLLUP_CUT 64u /* the smaps_rollup budget that ROLLUP ends at: what was asked for over this */

/* What was asked for. */
struct policy_asked {
    uint32_t goal_ppm;   /* 0: never gives anything up */
    uint32_t depth;      /* 1 .. MP_DEPTH_MAX */
    uint32_t rollup_ppm; /* 0: smaps_rollup is not read, so that it can't be read more rarely */
};

/* What is in force. */
struct policy_state {
    uint32_t stage; /* enum mp_stage; follows from the rest */
    uint32_t depth;
    uint32_t sample_log2;
    uint32_t rollup_ppm;
    bool quiet;
};

struct policy {
    struct policy_asked asked;
    struct policy_state now;
    uint32_t room_ppm; /* of the last window: what may be traced for */
    uint32_t calm;  /* windows in a row that would allow a step back */
    uint32_t hold;  /* so many are needed */
    uint32_t trial; /* windows left in which a cut puts the last step back in the wrong */
};

/* What a window cost. */
struct policy_window {
    uint64_t wall_ns;
    uint64_t cpu_ns;    /* of the process, without the agent's thread */
    uint64_t hook_ns;   /* of that, in hooks and probes; the rest is the target's own work */
    uint64_t floor_ns;  /* of hook_ns: what a hook costs by its presence */
    uint64_t rollup_ns; /* of hook_ns: in smaps_rollup */
};

void policy_init(struct policy *p, const struct policy_asked *asked);

/* The target's own work in the window, never 0: an estimate of hook_ns that is too
 * high may leave nothing, and then stands for a great cost all the same. */
uint64_t policy_work(const struct policy_window *w);

/* part over work in millionths, at most MP_COST_MAX_PPM. */
uint32_t policy_ppm(uint64_t part, uint64_t work);

/* Nothing worth judging: next to no CPU used, next to no time in hooks. */
bool policy_idle(const struct policy_window *w);

/* Judges a window; p->now is what holds from now on. True when that changed. */
bool policy_next(struct policy *p, const struct policy_window *w);

#endif
