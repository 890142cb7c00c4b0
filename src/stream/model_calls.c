/* From inclusive to self: a finished call claims the finished calls that it made
 * (see model.h), and takes back what a recursion would count twice. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "stream/model_priv.h"

#define PENDING_FIRST 8   /* room at a thread's first call */
#define PENDING_YOUNG 32  /* newest entries that are never put together */

/* Adds n to the list of p under its code. A list that is full drops it: then a
 * recursion through that function counts twice. */
static void nested_add(struct pending *p, const struct nested *n)
{
    for (unsigned i = 0; i < p->nested_count; i++) {
        if (p->nested[i].code != n->code)
            continue;
        p->nested[i].rss = add_sat(p->nested[i].rss, n->rss);
        p->nested[i].own = addu_sat(p->nested[i].own, n->own);
        p->nested[i].ns = addu_sat(p->nested[i].ns, n->ns);
        return;
    }
    if (p->nested_count < NESTED_MAX)
        p->nested[p->nested_count++] = *n;
}

/* Adds an older growth behind those that are there. */
static void grower_append(struct pending *p, const struct grower *g)
{
    if (g->rss > 0 && p->grower_count < GROWERS_MAX)
        p->grower[p->grower_count++] = *g;
}

/* Puts b, the younger, into a. */
static void pending_join(struct pending *a, const struct pending *b)
{
    struct pending older = *a;

    a->grower_count = 0;
    for (unsigned i = 0; i < b->grower_count; i++)
        grower_append(a, &b->grower[i]);
    for (unsigned i = 0; i < older.grower_count; i++)
        grower_append(a, &older.grower[i]);
    a->end = b->end;
    a->has_rss = b->has_rss;
    a->weight_log2 = a->weight_log2 > b->weight_log2 ? a->weight_log2 : b->weight_log2;
    a->rss_end = b->rss_end;
    a->rss = add_sat(a->rss, b->rss);
    a->own = addu_sat(a->own, b->own);
    a->ns = addu_sat(a->ns, b->ns);
    a->depth = a->depth < b->depth ? a->depth : b->depth;
    for (unsigned i = 0; i < b->nested_count; i++)
        nested_add(a, &b->nested[i]);
}

/* Halves all but the youngest. */
static void pending_compact(struct thread_slot *t)
{
    unsigned old = (t->pending_count - PENDING_YOUNG) & ~1u, to = 0;

    for (unsigned i = 0; i < old; i += 2) {
        struct pending p = t->pending[i];

        pending_join(&p, &t->pending[i + 1]);
        t->pending[to++] = p;
    }
    memmove(t->pending + to, t->pending + old, (t->pending_count - old) * sizeof(*t->pending));
    t->pending_count -= old - to;
}

static int pending_push(struct thread_slot *t, const struct pending *p)
{
    if (t->pending_count == t->pending_room && t->pending_room < MODEL_PENDING_MAX) {
        unsigned room = t->pending_room ? t->pending_room * 2 : PENDING_FIRST;
        struct pending *grown = realloc(t->pending, room * sizeof(*grown));

        if (!grown)
            return -ENOMEM;
        t->pending = grown;
        t->pending_room = room;
    }
    if (t->pending_count == MODEL_PENDING_MAX)
        pending_compact(t);
    t->pending[t->pending_count++] = *p;
    return 0;
}

/* Takes the calls that call made off the stack; their sums in *ret. */
static void pending_claim(struct thread_slot *t, const struct pending *call, struct pending *ret)
{
    memset(ret, 0, sizeof(*ret));
    while (t->pending_count) {
        const struct pending *top = &t->pending[t->pending_count - 1];

        if (top->depth <= call->depth || top->end < call->since)
            return;
        ret->rss = add_sat(ret->rss, top->rss);
        ret->own = addu_sat(ret->own, top->own);
        ret->ns = addu_sat(ret->ns, top->ns);
        for (unsigned i = 0; i < top->nested_count; i++)
            nested_add(ret, &top->nested[i]);
        for (unsigned i = 0; i < top->grower_count; i++)
            grower_append(ret, &top->grower[i]);
        t->pending_count--;
    }
}

/* What the call was measured to have done; where a figure is absent, its callees' sum. */
static void call_measure(const struct model *m, const struct mp_record *r, const struct pending *callees,
                         struct pending *ret)
{
    ret->ns = r->dur_ns;
    ret->rss = callees->rss;
    ret->own = callees->own;
    ret->has_rss = (r->flags & MP_REC_HAS_RSS) != 0;
    ret->rss_end = (int64_t)r->rss_pages * (int64_t)m->page_size;
    if (ret->has_rss)
        ret->rss = (int64_t)r->rss_delta_pages * (int64_t)m->page_size;
    if (r->flags & MP_REC_HAS_OWN)
        ret->own = r->own_pages * m->page_size;
}

/* The call's list: itself, then what its callees saw of other functions. Its own
 * function among them is a recursion: what was counted there is in the call. */
static void call_nest(struct model_code *c, struct pending *call, const struct pending *callees)
{
    unsigned w = call->weight_log2;

    call->nested[0] = (struct nested){c->id, weigh(call->rss, w), weighu(call->own, w), weighu(call->ns, w)};
    call->nested_count = 1;
    for (unsigned i = 0; i < callees->nested_count; i++) {
        const struct nested *n = &callees->nested[i];

        if (n->code != c->id) {
            nested_add(call, n);
            continue;
        }
        c->rss_incl = sub_sat(c->rss_incl, n->rss);
        c->own_incl = subu_sat(c->own_incl, n->own);
        c->time_ns = subu_sat(c->time_ns, n->ns);
    }
}

/* What a call released is first taken off what its callees took in this very call,
 * the last taken first: a temporary of theirs, a result that was dropped, or the
 * locals of a callee, which the interpreter frees only after the callee's return
 * was seen. Returns what is left: memory that was there before. */
static int64_t call_release(struct model *m, struct pending *callees, int64_t released)
{
    unsigned kept = 0;

    for (unsigned i = 0; i < callees->grower_count; i++) {
        struct grower g = callees->grower[i];
        int64_t take = g.rss < released ? g.rss : released;

        m->codes[g.code]->pub.rss_self = sub_sat(m->codes[g.code]->pub.rss_self, weigh(take, g.weight_log2));
        released -= take;
        g.rss -= take;
        if (g.rss)
            callees->grower[kept++] = g;
    }
    callees->grower_count = (uint16_t)kept;
    return released;
}

/* The call's own part of the change: to its function's SELF, and to what its
 * callers may release. A thread that took no page fault grew nothing: growth
 * that was seen meanwhile is another thread's, and stays unattributed here. */
static void call_self(struct model *m, struct model_code *c, const struct mp_record *r, struct pending *call,
                      struct pending *callees)
{
    int64_t self = sub_sat(call->rss, callees->rss);
    struct grower own = {c->id, call->weight_log2, self};

    if (self < 0)
        self = -call_release(m, callees, self == INT64_MIN ? INT64_MAX : -self);
    else if ((r->flags & MP_REC_HAS_OWN) && call->own <= callees->own)
        self = own.rss = 0;
    c->rss_self = add_sat(c->rss_self, weigh(self, call->weight_log2));
    grower_append(call, &own);
    for (unsigned i = 0; i < callees->grower_count; i++)
        grower_append(call, &callees->grower[i]);
}

/* Outermost calls have no traced caller that could be seen to release: what went
 * between the last one's return and this one's entry was released by whoever
 * called both, like the last one's locals. Only where one thread is traced: other
 * threads' releases would hide what this one keeps. */
static void call_release_between(struct model *m, struct thread_slot *t, const struct mp_record *r,
                                 const struct pending *call)
{
    struct pending *last = t->pending_count ? &t->pending[t->pending_count - 1] : NULL;
    unsigned outermost = m->has_root ? 0 : 1;
    int64_t drop;

    if (!last || HASH_COUNT(m->threads) > 1 || r->depth != outermost || last->depth != outermost ||
        last->weight_log2 || call->weight_log2 || !last->has_rss || !(r->flags & MP_REC_HAS_RSS) || last->end > call->start)
        return;
    drop = last->rss_end - ((int64_t)r->rss_pages - r->rss_delta_pages) * (int64_t)m->page_size;
    if (drop > 0)
        call_release(m, last, drop);
}

static void call_count(struct model_code *c, const struct mp_record *r, const struct pending *call,
                       const struct pending *callees)
{
    unsigned w = call->weight_log2;
    uint64_t n = 1ull << w;

    if (r->flags & MP_REC_HAS_RSS) {
        c->rss_max_call = c->rss_calls && c->rss_max_call > call->rss ? c->rss_max_call : call->rss;
        c->rss_calls += n;
    }
    c->own_calls += r->flags & MP_REC_HAS_OWN ? n : 0;
    c->measured++;
    c->calls += n;
    c->time_ns = addu_sat(c->time_ns, weighu(call->ns, w));
    c->self_ns = addu_sat(c->self_ns, weighu(subu_sat(call->ns, callees->ns), w));
    c->rss_incl = add_sat(c->rss_incl, weigh(call->rss, w));
    c->own_incl = addu_sat(c->own_incl, weighu(call->own, w));
    c->own_self = addu_sat(c->own_self, weighu(subu_sat(call->own, callees->own), w));
    c->raised += r->flags & MP_REC_RAISED ? n : 0;
    if (r->flags & MP_REC_HAS_USS_DELTA) {
        c->uss_incl = add_sat(c->uss_incl, weigh(r->uss_delta, w));
        c->uss_calls += n;
    }
}

/* Did a call of another thread change RSS at the same time? Threads are drained
 * one after the other, so the last few are compared by time, not by order. */
static void call_overlap(struct model *m, uint32_t thread, const struct pending *call)
{
    if (m->totals.overlap || call->rss == 0)
        return;
    for (unsigned i = 0; i < BUSY_MAX && HASH_COUNT(m->threads) > 1; i++) {
        const struct busy *b = &m->busy[i];

        if (b->thread && b->thread != thread && b->start < call->end && call->start < b->end)
            m->totals.overlap = true;
    }
    m->busy[m->busy_next++ % BUSY_MAX] = (struct busy){call->start, call->end, thread};
}

int model_call(struct model *m, struct thread_slot *t, struct code_slot *c, const struct mp_record *r)
{
    struct pending call = {.start = r->time_ns - r->dur_ns, .end = r->time_ns, .depth = r->depth,
                           .weight_log2 = r->weight_log2}, callees;

    call.since = subu_sat(call.start, (uint64_t)r->probe_units * MP_PROBE_UNIT_NS);
    pending_claim(t, &call, &callees);
    call_measure(m, r, &callees, &call);
    call_nest(&c->pub, &call, &callees);
    call_count(&c->pub, r, &call, &callees);
    call_release_between(m, t, r, &call);
    call_self(m, &c->pub, r, &call, &callees);
    call_overlap(m, t->pub.id, &call);
    return pending_push(t, &call);
}
