/* From inclusive to self: a finished call claims the finished calls that it made
 * (see model.h), and takes back what a recursion would count twice. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "stream/model_priv.h"

#define PENDING_FIRST 8   /* room at a thread's first call */
#define PENDING_YOUNG 32  /* newest entries that are never put together */
#define FAULT_AROUND 16u  /* pages: /sys/kernel/mm/.../fault_around_bytes, 64 KiB as a rule */
#define HUGE_PAGES 512    /* a huge page of x86-64 */
#define HUGE_SHARE 64     /* pages grown a fault, from which on it is one */
#define HUGE_CALLS 3u
#define FOREIGN_NS 5000000u /* sys.getswitchinterval(): in less than this other threads did not run, mostly */

#define PENDING_HEAD offsetof(struct pending, nested)

/* A record a microsecond: what is not in use is neither cleared nor copied. */
static void pending_copy(struct pending *to, const struct pending *from)
{
    memcpy(to, from, PENDING_HEAD);
    for (unsigned i = 0; i < from->nested_count; i++)
        to->nested[i] = from->nested[i];
}

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

/* Puts b, the younger, into a. */
static void pending_join(struct pending *a, const struct pending *b)
{
    a->end = b->end;
    a->has_rss = b->has_rss;
    a->weight_log2 = a->weight_log2 > b->weight_log2 ? a->weight_log2 : b->weight_log2;
    a->rss_end = b->rss_end;
    a->rss = add_sat(a->rss, b->rss);
    a->taken = add_sat(a->taken, b->taken);
    a->own = addu_sat(a->own, b->own);
    a->ns = addu_sat(a->ns, b->ns);
    a->depth = a->depth < b->depth ? a->depth : b->depth;
    for (unsigned i = 0; i < b->nested_count; i++)
        nested_add(a, &b->nested[i]);
}

/* Puts pairs of all but the youngest together. An entry that is deeper than the one
 * before it has another caller: they stay apart, unless nothing else would make room. */
static void pending_compact(struct thread_slot *t)
{
    unsigned old = t->pending_count - PENDING_YOUNG, to = 0;
    bool paired = true; /* the last one kept is two already */

    for (unsigned i = 0; i < old; i++) {
        if (!paired && t->pending[to - 1].depth >= t->pending[i].depth) {
            pending_join(&t->pending[to - 1], &t->pending[i]);
            paired = true;
        } else {
            pending_copy(&t->pending[to++], &t->pending[i]);
            paired = false;
        }
    }
    if (to == old) {
        pending_join(&t->pending[0], &t->pending[1]);
        memmove(t->pending + 1, t->pending + 2, (--to - 1) * sizeof(*t->pending));
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
    pending_copy(&t->pending[t->pending_count++], p);
    return 0;
}

/* Takes the calls that call made off the stack; their sums in *ret, with the last one's
 * start, end and figures at its return. One that was drawn from several stands for
 * these in a caller that was not. */
static void pending_claim(struct thread_slot *t, const struct pending *call, struct pending *ret)
{
    memset(ret, 0, PENDING_HEAD);
    while (t->pending_count) {
        const struct pending *top = &t->pending[t->pending_count - 1];
        unsigned w = top->weight_log2 > call->weight_log2 ? top->weight_log2 - call->weight_log2 : 0;

        if (top->depth <= call->depth || top->end < call->since)
            return;
        if (!ret->end) {
            ret->start = top->start;
            ret->end = top->end;
            ret->has_rss = top->has_rss;
            ret->rss_end = top->rss_end;
            ret->weight_log2 = top->weight_log2;
        }
        ret->rss = add_sat(ret->rss, weigh(top->rss, w));
        ret->taken = add_sat(ret->taken, top->taken);
        ret->own = addu_sat(ret->own, weighu(top->own, w));
        ret->ns = addu_sat(ret->ns, weighu(top->ns, w));
        for (unsigned i = 0; i < top->nested_count; i++)
            nested_add(ret, &top->nested[i]);
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
    ret->rss_start = ret->rss_end - ret->rss;
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

/* Whether figures of other threads may be in those of this one. */
static bool threaded(const struct model *m)
{
    return HASH_COUNT(m->threads) > 1;
}

/* When the call that is still running, and made the topmost call of the stack, began, at
 * the earliest: after the last one that is less deep than that. */
static uint64_t caller_since(const struct thread_slot *t)
{
    unsigned depth = t->pending[t->pending_count - 1].depth;

    for (unsigned i = t->pending_count - 1; i-- > 0;)
        if (t->pending[i].depth < depth)
            return t->pending[i].end;
    return 0;
}

/* What went between the return of the call before, of the same caller, and this one's
 * entry: that caller released it, or the interpreter did, which frees a call's locals
 * only after its return was seen. */
static void release_before(struct model *m, struct thread_slot *t, const struct pending *call)
{
    struct pending *last = t->pending_count ? &t->pending[t->pending_count - 1] : NULL;
    struct release r;

    if (!t->growth_count) /* nothing that it could be taken off */
        return;
    if (!last || last->depth != call->depth || last->end > call->start || last->weight_log2 || call->weight_log2 ||
        !last->has_rss || !call->has_rss || last->rss_end <= call->rss_start)
        return;
    r = (struct release){.size = last->rss_end - call->rss_start,
                         .since = caller_since(t),
                         .last = last->since,
                         .wide = !threaded(m)};
    last->taken = add_sat(last->taken, release_match(m, t, &r));
}

/* The same after the last of the call's own callees. */
static void release_last(struct model *m, struct thread_slot *t, const struct pending *call, struct pending *callees)
{
    struct release r;

    if (!callees->end || !callees->has_rss || !call->has_rss || callees->rss_end <= call->rss_end ||
        callees->weight_log2 != call->weight_log2)
        return;
    r = (struct release){.size = callees->rss_end - call->rss_end,
                         .since = call->since,
                         .last = callees->start,
                         .wide = !threaded(m)};
    callees->taken = add_sat(callees->taken, release_match(m, t, &r));
}

/* Calls that grew by far more than they faulted, in so short a time that mostly nobody
 * else ran: their faults brought huge pages. Calls that faulted page by page speak
 * against it. */
static void note_huge(struct model *m, const struct mp_record *r)
{
    if (r->dur_ns < FOREIGN_NS && r->rss_delta_pages >= HUGE_PAGES / 2 && r->own_pages &&
        r->own_pages <= (uint32_t)r->rss_delta_pages / HUGE_SHARE)
        m->huge_calls++;
    else if (r->own_pages >= HUGE_PAGES / 2)
        m->plain_calls++;
}

static bool huge_pages(const struct model *m)
{
    return m->huge_calls >= HUGE_CALLS && m->huge_calls > m->plain_calls;
}

/* How much of a growth that was seen in a call can be its thread's, which faulted `own`
 * bytes: nothing for nothing. A fault on a file brings its neighbours in as well. */
static int64_t own_growth(const struct model *m, int64_t self, uint64_t own)
{
    uint64_t most = addu_sat(own, m->page_size) > UINT64_MAX / FAULT_AROUND ? UINT64_MAX
                                                                           : (own + m->page_size) * FAULT_AROUND;

    if (!own)
        return 0;
    return huge_pages(m) || (uint64_t)self <= most ? self : (int64_t)most;
}

static int64_t bytes_of(uint64_t v)
{
    return v > INT64_MAX ? INT64_MAX : (int64_t)v;
}

/* The call's own part of the change: to its function's SELF, and to what may be
 * released. Among threads any call can have others' doings in it: its growth is then
 * what its thread faulted, and what went may be anybody's: model_settle decides. */
static void call_self(struct model *m, struct thread_slot *t, struct code_slot *c, const struct mp_record *r,
                      const struct pending *call, const struct pending *callees)
{
    int64_t self = add_sat(sub_sat(call->rss, callees->rss), callees->taken);
    uint64_t own = subu_sat(call->own, callees->own);

    if (self < 0 && call->weight_log2) { /* between callees that were drawn nothing was compared */
        struct release all = {.size = self == INT64_MIN ? INT64_MAX : -self,
                              .since = call->since, .last = call->since, .wide = true};

        self = add_sat(self, release_match(m, t, &all));
    }
    if (threaded(m) && r->flags & MP_REC_HAS_OWN && !huge_pages(m)) {
        int64_t grown = bytes_of(own);

        if (self < grown)
            c->rss_doubtful = add_sat(c->rss_doubtful, weigh(sub_sat(grown, self), call->weight_log2));
        self = grown;
    } else if (self > 0 && r->flags & MP_REC_HAS_OWN) {
        self = own_growth(m, self, own);
    }
    self_add(c, weigh(self, call->weight_log2));
    if (self > 0) {
        c->rss_grown = add_sat(c->rss_grown, weigh(self, call->weight_log2));
        release_growth(t, &(struct growth){call->end, self, c->pub.id, call->weight_log2});
    }
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
    struct pending call, callees;

    memset(&call, 0, PENDING_HEAD);
    call.start = r->time_ns - r->dur_ns;
    call.end = r->time_ns;
    call.depth = r->depth;
    call.weight_log2 = r->weight_log2;
    call.since = subu_sat(call.start, (uint64_t)r->probe_units * MP_PROBE_UNIT_NS);
    pending_claim(t, &call, &callees);
    call_measure(m, r, &callees, &call);
    call_nest(&c->pub, &call, &callees);
    call_count(&c->pub, r, &call, &callees);
    release_before(m, t, &call);
    release_last(m, t, &call, &callees);
    call_self(m, t, c, r, &call, &callees);
    call_overlap(m, t->pub.id, &call);
    note_huge(m, r);
    return pending_push(t, &call);
}
