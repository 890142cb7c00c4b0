/* What was measured: codes, threads, per-function totals, in bounded memory.
 * Fed with stream events; read by render/.
 *
 * Self and inclusive. A record arrives when its call has returned, so a thread's
 * calls arrive children first. A record claims the deeper calls of its thread that
 * ended since it began: its outermost traced callees.
 *
 *     f |-------------------------|      self(f) = incl(f) - incl(g) - incl(h)
 *       g |-----|    h |-------|
 *
 * A callee that was lost or filtered counts to its caller's self; one whose
 * caller was lost is claimed by the next caller up.
 *
 * Corrections make rss_self say who keeps memory; model_release.c does the first.
 * (1) What goes in a caller after a callee has returned is taken off what that callee
 * took, or those before it, in this very call, where one fits: its locals are freed
 * after its return was seen, and would make it grow and its caller shrink for ever.
 * (2) Growth beyond what the page faults of the call's thread can have brought is another
 * thread's; it counts for nobody here. Among threads a call grows by its faults,
 * whatever RSS did (unless faults were seen to bring huge pages). (3) Where several threads are traced, their releases hide
 * one another, and one thread sees another's while it waits: what the sum of all
 * rss_self is above the process's growth is taken off functions in proportion to the
 * releases that were seen of each, as far as they kept something, and then to what went
 * during their calls (rss_shared; an estimate). Time and OWN need none of these. The
 * inclusive figures are as measured.
 *
 * Exactness. RSS belongs to the process: a call's delta holds what other threads
 * and untraced code did meanwhile, and where calls of several threads overlap in
 * time, the same growth is in each of them (model_totals.overlap says so; then
 * the unattributed remainder may even be negative). OWN counts minor faults of
 * the calling thread and has no such overlap: its sums are exact, as far as a
 * fault is a page (a huge page is one fault; a fault may map neighbours too).
 *
 * Samples. A record of weight w (the governor samples calls, each with all below it)
 * stands for w calls like it: what it adds to its function's totals counts w times,
 * and the totals are then estimates. In a caller that was not drawn a callee of weight
 * w is taken off w times. Releases between two sampled calls are not looked for: others
 * were called in between.
 *
 * Memory: MP_CODES_MAX functions, MP_LINES_MAX lines, MODEL_THREADS_MAX threads
 * (the one idle longest makes room), MODEL_PENDING_MAX unclaimed calls a thread
 * (older ones are put together, pair by pair; a caller that began between such
 * two keeps them in its self). */
#ifndef MP_MODEL_H
#define MP_MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "stream/stream.h"

#define MP_LINES_MAX 65536     /* executed lines kept; visits of further ones are counted as dropped */
#define MODEL_THREADS_MAX 2048 /* threads remembered */
#define MODEL_PENDING_MAX 128  /* finished calls of one thread that no caller has claimed yet */

struct model;

/* A function, named. Strings are UTF-8, sanitised (no control characters, no
 * terminal escapes, invalid bytes replaced), NUL terminated, owned by the model;
 * never NULL. A function that records name before its CODE came is called "?". */
struct model_code {
    uint32_t id;
    uint32_t firstlineno;
    uint32_t flags; /* MP_CODE_* */
    const char *name, *file, *module; /* module: "" when not known */
    uint64_t named; /* as of a thread */
    /* Totals of finished calls. In a recursion the inclusive figures (time_ns, rss_incl,
     * own_incl) count the outermost call only; calls and the rest count each. */
    uint64_t calls;
    uint64_t measured; /* records among these; fewer than calls: the totals are estimates */
    uint64_t rss_calls, own_calls; /* of these, how many measured RSS, OWN */
    uint64_t time_ns, self_ns;
    int64_t rss_incl, rss_self;   /* bytes, net; self corrected as said above */
    uint64_t own_incl, own_self;  /* bytes faulted in by the calling thread */
    int64_t rss_max_call;         /* largest measured call's inclusive delta; with rss_calls */
    int64_t uss_incl;             /* bytes, over the calls measured at both edges, each counted */
    uint64_t uss_calls;           /* how many those were */
    uint64_t raised;
};

struct model_thread {
    uint32_t id;
    int32_t tid;
    uint32_t flags; /* MP_THREAD_* */
    const char *name; /* sanitised, never NULL */
    uint64_t named;   /* another number after each announcement, of any model: what was made of the
                       * fields above is right while it is the same. 0: not announced */
};

/* One executed line, kept for the mempulse table: first visit's figures and totals. */
struct model_line {
    uint32_t code_id, line;
    uint64_t visits;
    uint64_t first_ns; /* CLOCK_MONOTONIC of the first visit */
    uint64_t first_uss, first_swap, first_peak; /* bytes at the first visit, as far as it measured them */
    bool has_uss, has_peak, has_rss;            /* at the first visit */
    uint64_t first_rss;
    /* Of all visits: from this line's event to the next line of the same call or
     * the call's return, callees included. */
    int64_t rss_delta; /* bytes, whole process */
    uint64_t own;      /* bytes, this thread */
};

/* page_size scales page counts; one that no page can have counts as 4096. NULL
 * when memory ran out. */
struct model *model_new(size_t page_size);
void model_free(struct model *m);

/* Takes an event (CODE, THREAD, RECORDS, LOST, STATS, BYE; others are ignored).
 * 0 or -ENOMEM (the event may then be taken in part; the model stays usable). */
int model_event(struct model *m, const struct stream_event *ev) MP_MUST_CHECK;

/* NULL when unknown; id 0 gives the row that stands for functions beyond the limit. */
const struct model_code *model_code(const struct model *m, uint32_t id);
/* NULL when unknown, or forgotten for want of room. */
const struct model_thread *model_thread(const struct model *m, uint32_t id);

struct model_totals {
    uint64_t records, calls, lines; /* records taken; calls + lines = records */
    uint64_t calls_estimated;       /* calls, each as often as its record weighs */
    unsigned most_weight_log2;      /* of a record; 0: all figures are measured */
    uint64_t lines_dropped;         /* visits of lines beyond MP_LINES_MAX */
    uint64_t lost[4];       /* by enum mp_lost_reason; [0] is the sum */
    uint64_t filtered;
    bool have_stats;
    struct mp_stats first, last; /* first and newest STATS */
    struct mp_account account;   /* the governor's, as last heard: zeroes before the first STATS */
    int64_t rss_first, rss_last; /* process RSS in bytes, earliest and latest by time; -1 unknown */
    int64_t rss_attributed;      /* sum of self */
    int64_t rss_shared;          /* bytes taken off by correction (3); 0 with one thread */
    int64_t rss_unattributed;    /* rss_last - rss_first - rss_attributed; 0 when these are unknown */
    uint64_t own_attributed;     /* sum of self: exact under threads */
    bool overlap; /* calls of different threads that changed RSS overlapped in time (see above) */
};
void model_totals(const struct model *m, struct model_totals *ret);

/* Functions with at least one call, sorted by net self growth, largest first; ties by inclusive,
 * then own, then name. The array is the caller's to free; its members are the
 * model's. Returns its length or -ENOMEM. */
long model_ranking(const struct model *m, const struct model_code ***ret) MP_MUST_CHECK;

/* Lines in order of first execution. Array is the caller's to free. */
long model_lines(const struct model *m, const struct model_line ***ret) MP_MUST_CHECK;

#endif
