/* What was measured: codes, threads, per-function totals, in bounded memory.
 * Fed with stream events; read by render/. */
#ifndef MP_MODEL_H
#define MP_MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "stream/stream.h"

struct model;

/* A function, named. Strings are UTF-8, sanitised (no control characters, no
 * terminal escapes, invalid bytes replaced), NUL terminated, owned by the model. */
struct model_code {
    uint32_t id;
    uint32_t firstlineno;
    uint32_t flags; /* MP_CODE_* */
    const char *name, *file, *module;
    /* totals of finished calls */
    uint64_t calls;
    uint64_t time_ns, self_ns;
    int64_t rss_incl, rss_self;   /* bytes, net */
    uint64_t own_incl, own_self;  /* bytes faulted in by the calling thread */
    int64_t rss_max_call;         /* largest single call's inclusive delta */
    int64_t uss_incl;             /* bytes, over the calls measured at both edges */
    uint64_t uss_calls;           /* how many those were */
    uint64_t raised;
};

struct model_thread {
    uint32_t id;
    int32_t tid;
    uint32_t flags; /* MP_THREAD_* */
    const char *name; /* sanitised */
};

/* One executed line, kept for the mempulse table: first visit's figures and totals. */
struct model_line {
    uint32_t code_id, line;
    uint64_t visits;
    uint64_t first_uss, first_swap, first_peak; /* bytes at the first measured visit */
    bool has_uss;
    uint64_t first_rss;
    int64_t rss_delta; /* bytes: growth from this line's visits to the next line of the same call, summed */
    uint64_t own;
};

struct model *model_new(size_t page_size);
void model_free(struct model *m);

/* Takes an event (CODE, THREAD, RECORDS, LOST, STATS; others are ignored).
 * 0 or -ENOMEM. Bounded: at most MP_CODES_MAX codes, MP_LINES_MAX lines, … */
int model_event(struct model *m, const struct stream_event *ev) MP_MUST_CHECK;

/* NULL when unknown; id 0 gives the row that stands for functions beyond the limit. */
const struct model_code *model_code(const struct model *m, uint32_t id);
const struct model_thread *model_thread(const struct model *m, uint32_t id);

struct model_totals {
    uint64_t records, calls, lines;
    uint64_t lost[4];       /* by enum mp_lost_reason; [0] is the sum */
    uint64_t filtered;
    bool have_stats;
    struct mp_stats first, last; /* first and newest STATS */
    int64_t rss_first, rss_last; /* process RSS in bytes, first and newest seen; -1 unknown */
    int64_t rss_attributed;      /* sum over calls at the outermost traced level of their deltas */
    int64_t rss_unattributed;    /* rss_last - rss_first - rss_attributed */
};
void model_totals(const struct model *m, struct model_totals *ret);

/* Sorted by net self growth, largest first; ties by inclusive, then name. The
 * array is the caller's to free; its members are the model's. Returns its length or -ENOMEM. */
long model_ranking(const struct model *m, const struct model_code ***ret) MP_MUST_CHECK;

/* Lines in order of first execution. Array is the caller's to free. */
long model_lines(const struct model *m, const struct model_line ***ret) MP_MUST_CHECK;

#endif
