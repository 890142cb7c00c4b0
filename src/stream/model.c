/* The model's tables: functions, threads, totals (see model.h). */
#include "stream/model.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"
#include "stream/model_priv.h"

#define PAGE_DEFAULT 4096u
#define PAGE_LARGEST (1u << 20)

static uint64_t announcements; /* numbers them: see `named` in model.h */

struct model *model_new(size_t page_size)
{
    struct model *m = calloc(1, sizeof(*m));
    bool sane = page_size >= PAGE_DEFAULT && page_size <= PAGE_LARGEST && !(page_size & (page_size - 1));

    if (!m)
        return NULL;
    m->page_size = sane ? page_size : PAGE_DEFAULT;
    m->totals.rss_first = m->totals.rss_last = -1;
    return m;
}

static void thread_free(struct model *m, struct thread_slot *t)
{
    HASH_DEL(m->threads, t);
    if (m->last == t)
        m->last = NULL;
    free(t->pending);
    free(t->levels);
    free(t->name);
    free(t);
}

static void code_clear(struct code_slot *c)
{
    for (size_t i = 0; i < 3; i++) {
        free(c->strings[i]);
        c->strings[i] = NULL;
    }
}

void model_free(struct model *m)
{
    struct thread_slot *t, *tnext;
    struct line_slot *l, *lnext;

    if (!m)
        return;
    HASH_ITER(hh, m->threads, t, tnext)
        thread_free(m, t);
    HASH_ITER(hh, m->lines, l, lnext) {
        HASH_DEL(m->lines, l);
        free(l);
    }
    for (size_t i = 0; i < m->codes_end; i++) {
        if (m->codes[i])
            code_clear(m->codes[i]);
        free(m->codes[i]);
    }
    free(m);
}

/* The slot of a function, made when it is new; NULL when memory ran out. */
static struct code_slot *code_slot(struct model *m, uint32_t id)
{
    struct code_slot *c = m->codes[id];

    if (c)
        return c;
    c = calloc(1, sizeof(*c));
    if (!c)
        return NULL;
    c->pub.id = id;
    c->pub.name = id ? "?" : "(further functions)";
    c->pub.file = "?";
    c->pub.module = "";
    m->codes[id] = c;
    if (id >= m->codes_end)
        m->codes_end = id + 1u;
    return c;
}

static int model_take_code(struct model *m, const struct stream_event *ev)
{
    const struct mp_code *h = &ev->code.head;
    struct code_slot *c = code_slot(m, h->id);

    if (!c)
        return -ENOMEM;
    if (c->strings[0]) /* ids never return: the first name stays */
        return 0;
    c->strings[0] = utf8_sanitise(ev->code.name, h->name_len);
    c->strings[1] = utf8_sanitise(ev->code.file, h->file_len);
    c->strings[2] = utf8_sanitise(ev->code.module, h->module_len);
    if (!c->strings[0] || !c->strings[1] || !c->strings[2]) {
        code_clear(c);
        return -ENOMEM;
    }
    c->pub.name = c->strings[0];
    c->pub.file = c->strings[1];
    c->pub.module = c->strings[2];
    c->pub.firstlineno = h->firstlineno;
    c->pub.flags = h->flags;
    c->pub.named = ++announcements;
    return 0;
}

/* The one used last is asked for most. */
static struct thread_slot *thread_find(const struct model *m, uint32_t id)
{
    struct thread_slot *t = m->last;

    if (t && t->pub.id == id)
        return t;
    HASH_FIND(hh, m->threads, &id, sizeof(id), t);
    return t;
}

/* The slot of a thread, made when it is new; becomes the one used last. */
static struct thread_slot *thread_use(struct model *m, uint32_t id)
{
    struct thread_slot *t = thread_find(m, id);
    bool oom = false;

    if (t && t == m->last)
        return t;
    m->last = NULL;
    if (t) {
        HASH_DEL(m->threads, t);
    } else {
        if (HASH_COUNT(m->threads) >= MODEL_THREADS_MAX)
            thread_free(m, m->threads);
        t = calloc(1, sizeof(*t));
        if (!t)
            return NULL;
        t->pub.id = id;
        t->pub.name = "?";
    }
    HASH_ADD(hh, m->threads, pub.id, sizeof(t->pub.id), t);
    if (!oom) {
        m->last = t;
        return t;
    }
    free(t->pending);
    free(t->levels);
    free(t->name);
    free(t);
    return NULL;
}

static int model_take_thread(struct model *m, const struct stream_event *ev)
{
    const struct mp_thread *h = &ev->thread.head;
    struct thread_slot *t = thread_use(m, h->id);
    char *name = utf8_sanitise(ev->thread.name, h->name_len);

    if (!t || !name) {
        free(name);
        return -ENOMEM;
    }
    free(t->name);
    t->name = name;
    t->pub.name = name;
    t->pub.tid = h->tid;
    t->pub.flags = h->flags;
    t->pub.named = ++announcements;
    return 0;
}

/* The process's RSS was this at that time. Records of different threads come out of order. */
static void model_rss_at(struct model *m, uint64_t time_ns, int64_t rss)
{
    struct model_totals *t = &m->totals;

    if (t->rss_first < 0 || time_ns < m->rss_first_ns) {
        t->rss_first = rss < 0 ? 0 : rss;
        m->rss_first_ns = time_ns;
    }
    if (t->rss_last < 0 || time_ns >= m->rss_last_ns) {
        t->rss_last = rss < 0 ? 0 : rss;
        m->rss_last_ns = time_ns;
    }
}

static void model_take_rss(struct model *m, const struct mp_record *r)
{
    int64_t page = (int64_t)m->page_size;

    if (!(r->flags & MP_REC_HAS_RSS))
        return;
    if (r->type == MP_REC_CALL)
        model_rss_at(m, r->time_ns - r->dur_ns, ((int64_t)r->rss_pages - r->rss_delta_pages) * page);
    model_rss_at(m, r->time_ns, (int64_t)r->rss_pages * page);
}

static int model_take_record(struct model *m, struct thread_slot *t, const struct mp_record *r)
{
    struct code_slot *c = code_slot(m, r->code_id);
    int err;

    if (!c)
        return -ENOMEM;
    m->totals.records++;
    model_take_rss(m, r);
    if (r->type == MP_REC_LINE) {
        m->totals.lines++;
        return model_line_visit(m, t, r);
    }
    m->totals.calls++;
    m->totals.calls_estimated += 1ull << r->weight_log2;
    if (m->totals.most_weight_log2 < r->weight_log2)
        m->totals.most_weight_log2 = r->weight_log2;
    err = model_call(m, t, c, r);
    model_line_return(m, t, r);
    return err;
}

static int model_take_records(struct model *m, const struct stream_event *ev)
{
    struct thread_slot *t = NULL;
    int first = 0;

    for (unsigned i = 0; i < ev->records.count; i++) {
        const struct mp_record *r = &ev->records.rec[i];
        int err;

        if (!t || t->pub.id != r->thread_id)
            t = thread_use(m, r->thread_id);
        err = t ? model_take_record(m, t, r) : -ENOMEM;
        first = first ? first : err;
    }
    return first;
}

static void model_take_lost(struct model *m, const struct mp_lost *l)
{
    m->totals.lost[0] = addu_sat(m->totals.lost[0], l->count);
    if (l->reason >= 1 && l->reason < 4)
        m->totals.lost[l->reason] = addu_sat(m->totals.lost[l->reason], l->count);
}

static void model_take_stats(struct model *m, const struct mp_stats *s)
{
    if (!m->totals.have_stats)
        m->totals.first = *s;
    m->totals.have_stats = true;
    m->totals.last = *s;
    m->totals.filtered = s->filtered;
    m->totals.account = s->account;
    if (s->rss_bytes)
        model_rss_at(m, s->time_ns, (int64_t)s->rss_bytes);
}

int model_event(struct model *m, const struct stream_event *ev)
{
    switch (ev->type) {
    case MP_MSG_CODE:
        return model_take_code(m, ev);
    case MP_MSG_THREAD:
        return model_take_thread(m, ev);
    case MP_MSG_RECORDS:
        return model_take_records(m, ev);
    case MP_MSG_LOST:
        model_take_lost(m, &ev->lost);
        return 0;
    case MP_MSG_STATS:
        model_take_stats(m, &ev->stats);
        return 0;
    case MP_MSG_BYE:
        m->totals.account = ev->bye.account;
        return 0;
    default:
        return 0;
    }
}

const struct model_code *model_code(const struct model *m, uint32_t id)
{
    static const struct model_code further = {.name = "(further functions)", .file = "?", .module = ""};

    if (id > MP_CODES_MAX)
        return NULL;
    if (!m->codes[id])
        return id ? NULL : &further;
    return &m->codes[id]->pub;
}

const struct model_thread *model_thread(const struct model *m, uint32_t id)
{
    const struct thread_slot *t = thread_find(m, id);

    return t ? &t->pub : NULL;
}

void model_totals(const struct model *m, struct model_totals *ret)
{
    model_settle(m);
    *ret = m->totals;
    ret->rss_attributed = 0;
    ret->own_attributed = 0;
    for (size_t i = 0; i < m->codes_end; i++) {
        if (!m->codes[i])
            continue;
        ret->rss_attributed = add_sat(ret->rss_attributed, m->codes[i]->pub.rss_self);
        ret->own_attributed = addu_sat(ret->own_attributed, m->codes[i]->pub.own_self);
    }
    if (ret->rss_first >= 0)
        ret->rss_unattributed = sub_sat(ret->rss_last - ret->rss_first, ret->rss_attributed);
}

#define COMPARE(a, b) ((a) < (b) ? 1 : (a) > (b) ? -1 : 0) /* the larger first */

static int rank_compare(const void *pa, const void *pb)
{
    const struct model_code *a = *(const struct model_code *const *)pa;
    const struct model_code *b = *(const struct model_code *const *)pb;
    int d = COMPARE(a->rss_self, b->rss_self);

    if (!d)
        d = COMPARE(a->rss_incl, b->rss_incl);
    if (!d)
        d = COMPARE(a->own_self, b->own_self);
    if (!d)
        d = strcmp(a->name, b->name);
    return d ? d : -COMPARE(a->id, b->id);
}

long model_ranking(const struct model *m, const struct model_code ***ret)
{
    const struct model_code **rank;
    size_t n = 0, i;

    model_settle(m);
    for (i = 0; i < m->codes_end; i++)
        n += m->codes[i] && m->codes[i]->pub.calls;
    rank = calloc(n + 1, sizeof(*rank));
    if (!rank)
        return -ENOMEM;
    n = 0;
    for (i = 0; i < m->codes_end; i++)
        if (m->codes[i] && m->codes[i]->pub.calls)
            rank[n++] = &m->codes[i]->pub;
    qsort(rank, n, sizeof(*rank), rank_compare);
    *ret = rank;
    return (long)n;
}
