/* Who had what is released: growths of a thread's calls, and the releases that fit
 * them (see model.h).
 *
 *     request |------------------------------|      in request, after handle: 5 MiB go,
 *       handle |--+5M--|  leak |--+0.1M--|          which handle took; not leak's
 *                       ^ -5M
 *
 * A release is taken off, in this order: a growth of about its size, under the callee
 * that has just returned, then under those before it; then, under each likewise, the
 * smallest growth that is large enough, then the largest ones together. */
#include <string.h>

#include "stream/model_priv.h"

#define CLOSE_SHARE 8      /* a growth that differs by an eighth is of about the size */
#define CLOSE_BYTES 32768  /* or by so much: what else goes with a frame */
#define CRUMB_SHARE 64     /* growths smaller than this share of a release are no part of it */

enum fit { FIT_CLOSE, FIT_ENOUGH, FIT_LARGEST };

static int64_t distance(int64_t a, int64_t b)
{
    return a > b ? a - b : b - a;
}

/* How badly g fits size bytes, 0 the best; -1: not at all. */
static int64_t fit_of(const struct growth *g, int64_t size, enum fit fit)
{
    int64_t d = distance(g->rss, size);

    if (fit == FIT_CLOSE)
        return d <= size / CLOSE_SHARE || d <= CLOSE_BYTES ? d : -1;
    if (fit == FIT_ENOUGH)
        return g->rss >= size ? d : -1;
    return g->rss >= size / CRUMB_SHARE ? INT64_MAX - g->rss : -1;
}

/* The growth that fits best of those in (since, until]; of equal ones the newest. */
static struct growth *fit_best(struct thread_slot *t, uint64_t since, uint64_t until, int64_t size, enum fit fit)
{
    struct growth *best = NULL;
    int64_t least = 0;

    for (unsigned i = t->growth_count; i-- > 0 && t->growth[i].time > since;) {
        int64_t d = t->growth[i].time > until ? -1 : fit_of(&t->growth[i], size, fit);

        if (d < 0 || (best && d >= least))
            continue;
        best = &t->growth[i];
        least = d;
    }
    return best;
}

static int64_t growth_take(struct model *m, struct thread_slot *t, struct growth *g, int64_t size)
{
    struct code_slot *c = m->codes[g->code];
    int64_t take = g->rss < size ? g->rss : size, weighed = weigh(take, g->weight_log2);

    self_add(c, -weighed);
    c->rss_matched = add_sat(c->rss_matched, weighed);
    g->rss -= take;
    if (!g->rss) {
        unsigned i = (unsigned)(g - t->growth);

        memmove(g, g + 1, (--t->growth_count - i) * sizeof(*g));
    }
    return take;
}

int64_t release_match(struct model *m, struct thread_slot *t, const struct release *r)
{
    const uint64_t from[2] = {r->last, r->since}, until[2] = {UINT64_MAX, r->last};
    int64_t left = r->size;

    for (int fit = FIT_CLOSE; fit <= FIT_LARGEST; fit++)
        for (int place = 0; place < (r->wide ? 2 : 1); place++) {
            struct growth *g;

            while (left > 0 && (g = fit_best(t, from[place], until[place], left, (enum fit)fit)) != NULL)
                left -= growth_take(m, t, g, left);
        }
    return r->size - left;
}

/* A full list loses the smallest of its older half. */
void release_growth(struct thread_slot *t, const struct growth *g)
{
    if (t->growth_count == GROWTHS_MAX) {
        unsigned least = 0;

        for (unsigned i = 1; i < GROWTHS_MAX / 2; i++)
            if (t->growth[i].rss < t->growth[least].rss)
                least = i;
        memmove(&t->growth[least], &t->growth[least + 1], (GROWTHS_MAX - 1 - least) * sizeof(*g));
        t->growth_count--;
    }
    t->growth[t->growth_count++] = *g;
}

/* What a function may be charged with by settling, and by which measure. */
static int64_t settle_doubtful(const struct code_slot *c, double *ret_key)
{
    *ret_key = (double)c->rss_doubtful;
    return c->rss_doubtful;
}

/* By the releases that were seen, and by how much of its growth these were: a match by
 * chance is a small part of what a function keeps. */
static int64_t settle_matched(const struct code_slot *c, double *ret_key)
{
    *ret_key = 0;
    if (c->pub.rss_self <= 0 || c->rss_grown <= 0)
        return 0;
    *ret_key = (double)c->rss_matched * ((double)c->rss_matched / (double)c->rss_grown);
    return c->pub.rss_self;
}

/* One round of sharing out pool bytes in proportion. Returns what is left of it. */
static int64_t settle_share(const struct model *m, int64_t pool, int64_t (*limit)(const struct code_slot *, double *))
{
    double sum = 0, key;
    int64_t left = pool;

    for (size_t i = 0; i < m->codes_end; i++)
        if (m->codes[i] && limit(m->codes[i], &key) > 0)
            sum += key;
    for (size_t i = 0; sum > 0 && i < m->codes_end; i++) {
        int64_t most = m->codes[i] ? limit(m->codes[i], &key) : 0, take;

        if (most <= 0)
            continue;
        take = (int64_t)((double)pool * (key / sum) + 0.5);
        take = take < most ? take : most;
        take = take < left ? take : left;
        m->codes[i]->pub.rss_self -= take;
        left -= take;
    }
    return left;
}

#define SETTLE_ROUNDS 4 /* where one reaches its limit others take more */

void model_settle(const struct model *m)
{
    struct model_totals *t = (struct model_totals *)&m->totals;
    int64_t self = 0, pool;

    for (size_t i = 0; i < m->codes_end; i++)
        if (m->codes[i]) {
            m->codes[i]->pub.rss_self = m->codes[i]->rss_self;
            self = add_sat(self, m->codes[i]->rss_self);
        }
    t->rss_shared = 0;
    if (t->rss_first < 0 || HASH_COUNT(m->threads) < 2)
        return;
    pool = sub_sat(self, sub_sat(t->rss_last, t->rss_first));
    if (pool <= 0 || pool == INT64_MAX)
        return;
    t->rss_shared = pool;
    for (int i = 0; i < SETTLE_ROUNDS && pool > 0; i++)
        pool = settle_share(m, pool, settle_matched);
    pool = settle_share(m, pool, settle_doubtful);
    t->rss_shared -= pool;
}
