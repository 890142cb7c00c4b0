/* Traced calls: what both kinds of hook share. A call that is to be recorded is
 * measured at both edges; the record goes into the thread's ring. */
#include "agent/agent.h"

void thread_set_base(struct thread *th, int32_t base)
{
    th->base = base;
    if (base == DEPTH_NONE)
        th->limit = DEPTH_NONE;
    else /* before 3.12 the first call below the depth is kept too: line tracing rests in it */
        th->limit = base + (int32_t)g.gov.depth + (g.lines && g.hook == MP_HOOK_THUNK);
}

#define OFTEN 32u /* calls of a function in a second, above which the governor's draw begins */

/* xorshift (Marsaglia 2003) */
static uint32_t draw(struct thread *th)
{
    uint32_t x = th->random ? th->random : (uint32_t)th->tid * 2654435761u | 1u;

    x ^= x << 13;
    x ^= x >> 17;
    x ^= x << 5;
    return th->random = x;
}

/* A function that is called now and then is always measured: it may run for ever,
 * and all below it would be left out. What is inside a call that was drawn is
 * measured whole and counts as much as that call. */
int call_weight(struct thread *th, struct code *code)
{
    unsigned n = g.gov.sample_log2;

    if (th->weight_log2)
        return th->weight_log2;
    if (likely(!n) || g.greenlets)
        return 0;
    if (code->tick != g.tick) {
        code->calls_before = code->tick + 1 == g.tick ? code->calls : 0;
        code->calls = 0;
        code->tick = g.tick;
    }
    if (++code->calls <= OFTEN && code->calls_before <= OFTEN)
        return 0;
    if (draw(th) & ((1u << n) - 1)) {
        g.skipped++;
        return -1;
    }
    return (int)n;
}

void call_begin(struct thread *th, struct call *c)
{
    bool timed = meter_time_this(), statm;
    uint64_t start = unlikely(timed) ? clock_ns(CLOCK_MONOTONIC) : 0;
    struct reading r;
    struct rollup roll;

    c->has_uss = 0;
    statm = meter_entry(th, c->code, &r);
    if (unlikely(r.foreign)) {
        c->kind = CALL_PASS;
        return;
    }
    if (unlikely(timed))
        meter_timed(r.time - start, statm);
    if (unlikely(rollup_wanted(r.time, r.rss, c->code)) && meter_rollup(th, 2, &roll)) {
        c->has_uss = 1;
        c->uss0 = roll.uss;
        c->code->flags |= CODE_USS_SEEN;
        r.time = clock_ns(CLOCK_MONOTONIC);
    }
    c->time0 = r.time;
    c->rss0 = r.has_rss ? r.rss : -1;
    c->faults0 = r.faults;
    c->probe0 = th->probe_ns;
    th->line_faults = r.faults;
}

static void fill_uss(const struct call *c, const struct reading *r, struct mp_record *rec)
{
    struct rollup roll;

    rec->uss_bytes = rec->swap_bytes = 0;
    rec->uss_delta = 0;
    if (likely(!c->has_uss && !rollup_wanted(r->time, r->rss, c->code)))
        return;
    if (!meter_rollup(c->thread, 1, &roll))
        return;
    c->code->flags |= CODE_USS_SEEN;
    rec->flags |= MP_REC_HAS_USS;
    rec->uss_bytes = roll.uss;
    rec->swap_bytes = roll.swap;
    if (c->has_uss) {
        rec->flags |= MP_REC_HAS_USS_DELTA;
        rec->uss_delta = (int64_t)(roll.uss - c->uss0);
    }
}

/* --min-bytes and --min-time: below either, not sent. */
static bool filtered(const struct reading *r, const struct call *c, uint64_t dur)
{
    uint64_t own = (r->faults - c->faults0) * MP_PAGE;
    int64_t rss = (r->rss - c->rss0) * (int64_t)MP_PAGE;

    if (dur < g.opt.min_time_ns)
        return true;
    if (!g.opt.min_bytes)
        return false;
    return own < g.opt.min_bytes && (uint64_t)(rss < 0 ? -rss : rss) < g.opt.min_bytes;
}

static uint16_t probe_units(uint64_t ns)
{
    uint64_t units = (ns + MP_PROBE_UNIT_NS - 1) / MP_PROBE_UNIT_NS;

    return units > UINT16_MAX ? UINT16_MAX : (uint16_t)units;
}

void call_end(struct call *c, unsigned flags)
{
    struct thread *th = c->thread;
    struct mp_record *rec;
    struct reading r;
    uint64_t dur, probed;
    bool timed = meter_time_this(), statm;
    uint64_t start = unlikely(timed) ? clock_ns(CLOCK_MONOTONIC) : 0;

    statm = meter_exit(th, c->code, &r);
    probed = th->probe_ns - c->probe0;
    dur = r.time - c->time0 - probed;
    if (unlikely((g.opt.min_bytes || g.opt.min_time_ns) && filtered(&r, c, dur))) {
        g.filtered++;
        return;
    }
    rec = ring_reserve(th);
    if (unlikely(!rec))
        return;
    rec->time_ns = r.time;
    rec->dur_ns = dur;
    rec->code_id = c->code->id;
    rec->thread_id = th->id;
    rec->type = MP_REC_CALL;
    rec->weight_log2 = c->weight_log2;
    rec->flags = (uint16_t)(c->flags | flags | MP_REC_HAS_PEAK);
    rec->depth = c->depth;
    rec->probe_units = probe_units(probed);
    rec->line = 0;
    rec->rss_delta_pages = (int32_t)(r.rss - c->rss0);
    rec->rss_pages = (uint32_t)r.rss;
    rec->own_pages = (uint32_t)(r.faults - c->faults0);
    rec->peak_bytes = r.peak;
    if (r.has_rss && c->rss0 >= 0)
        rec->flags |= MP_REC_HAS_RSS;
    if (r.has_own)
        rec->flags |= MP_REC_HAS_OWN;
    fill_uss(c, &r, rec);
    ring_commit(th);
    if (unlikely(timed) && !(rec->flags & MP_REC_HAS_USS))
        meter_timed(clock_ns(CLOCK_MONOTONIC) - start, statm);
}
