/* Executed lines: first visits, and what each line's visits added up to. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "stream/model_priv.h"

/* The slot of a line, made when it is new. NULL with *ret_err 0: the table is full. */
static struct model_line *line_slot(struct model *m, const struct mp_record *r, int *ret_err)
{
    struct line_key key = {r->code_id, r->line};
    struct line_slot *l;
    bool oom = false;

    *ret_err = 0;
    HASH_FIND(hh, m->lines, &key, sizeof(key), l);
    if (l)
        return &l->pub;
    if (HASH_COUNT(m->lines) >= MP_LINES_MAX)
        return NULL;
    *ret_err = -ENOMEM;
    l = calloc(1, sizeof(*l));
    if (!l)
        return NULL;
    l->key = key;
    l->pub.code_id = key.code_id;
    l->pub.line = key.line;
    HASH_ADD(hh, m->lines, key, sizeof(key), l);
    if (oom) {
        free(l);
        return NULL;
    }
    *ret_err = 0;
    return &l->pub;
}

static void line_count(struct model *m, struct model_line *l, const struct mp_record *r)
{
    if (!l->visits || r->time_ns < l->first_ns) {
        l->first_ns = r->time_ns;
        l->has_uss = r->flags & MP_REC_HAS_USS;
        l->has_peak = r->flags & MP_REC_HAS_PEAK;
        l->has_rss = r->flags & MP_REC_HAS_RSS;
        l->first_uss = l->has_uss ? r->uss_bytes : 0;
        l->first_swap = l->has_uss ? r->swap_bytes : 0;
        l->first_peak = l->has_peak ? r->peak_bytes : 0;
        l->first_rss = l->has_rss ? r->rss_pages * m->page_size : 0;
    }
    l->visits++;
}

/* The line of one level ends now: by the next line of its call, or by the return. */
static void level_close(struct thread_slot *t, struct line_level *lv, bool has_rss, uint64_t rss)
{
    if (!lv->line)
        return;
    lv->line->own = addu_sat(lv->line->own, subu_sat(t->own_count, lv->own_at_line));
    if (has_rss && lv->has_rss)
        lv->line->rss_delta = add_sat(lv->line->rss_delta, (int64_t)rss - (int64_t)lv->rss);
}

static void levels_forget(struct thread_slot *t, unsigned from)
{
    for (unsigned i = from; i <= MP_DEPTH_MAX; i++)
        t->levels[i].line = NULL;
}

/* Bytes faulted in since the thread's previous line record that are not counted
 * yet. The first line of a call counts from the call's entry (wire.h): what
 * carried over from a return before it is not in it. */
static uint64_t line_own(const struct model *m, struct thread_slot *t, const struct mp_record *r, bool first)
{
    uint64_t own = (r->flags & MP_REC_HAS_OWN) ? r->own_pages * m->page_size : 0;

    if (!first)
        own = subu_sat(own, t->own_carry);
    t->own_carry = 0;
    return own;
}

int model_line_visit(struct model *m, struct thread_slot *t, const struct mp_record *r)
{
    bool has_rss = r->flags & MP_REC_HAS_RSS, first;
    uint64_t rss = r->rss_pages * m->page_size, before = t->own_count;
    struct line_level *lv;
    struct model_line *l;
    int err;

    if (!t->levels)
        t->levels = calloc(MP_DEPTH_MAX + 1, sizeof(*t->levels));
    if (!t->levels)
        return -ENOMEM;
    lv = &t->levels[r->depth];
    first = !lv->line || lv->line->code_id != r->code_id;
    t->own_count = addu_sat(t->own_count, line_own(m, t, r, first));
    if (!first)
        level_close(t, lv, has_rss, rss);
    levels_forget(t, r->depth + 1u);
    l = line_slot(m, r, &err);
    *lv = (struct line_level){l, has_rss, rss, t->own_count, first ? before : lv->own_at_entry};
    if (l)
        line_count(m, l, r);
    else
        m->totals.lines_dropped++;
    return err;
}

void model_line_return(struct model *m, struct thread_slot *t, const struct mp_record *r)
{
    struct line_level *lv;

    if (!t->levels)
        return;
    lv = &t->levels[r->depth];
    if (lv->line && lv->line->code_id == r->code_id) {
        uint64_t own = (r->flags & MP_REC_HAS_OWN) ? r->own_pages * m->page_size : 0;
        uint64_t rest = subu_sat(own, t->own_count - lv->own_at_entry);

        t->own_count = addu_sat(t->own_count, rest);
        t->own_carry = addu_sat(t->own_carry, rest);
        level_close(t, lv, r->flags & MP_REC_HAS_RSS, r->rss_pages * m->page_size);
    }
    levels_forget(t, r->depth);
}

static int line_compare(const void *pa, const void *pb)
{
    const struct model_line *a = *(const struct model_line *const *)pa;
    const struct model_line *b = *(const struct model_line *const *)pb;

    if (a->first_ns != b->first_ns)
        return a->first_ns < b->first_ns ? -1 : 1;
    if (a->code_id != b->code_id)
        return a->code_id < b->code_id ? -1 : 1;
    return a->line < b->line ? -1 : a->line > b->line;
}

long model_lines(const struct model *m, const struct model_line ***ret)
{
    const struct model_line **lines = calloc(HASH_COUNT(m->lines) + 1u, sizeof(*lines));
    struct line_slot *l, *next;
    size_t n = 0;

    if (!lines)
        return -ENOMEM;
    HASH_ITER(hh, m->lines, l, next)
        lines[n++] = &l->pub;
    qsort(lines, n, sizeof(*lines), line_compare);
    *ret = lines;
    return (long)n;
}
