/* What model.c and its parts model_calls.c, model_lines.c share. */
#ifndef MP_MODEL_PRIV_H
#define MP_MODEL_PRIV_H

#include "stream/model.h"

/* uthash may not end the program: a failed insertion sets the variable oom,
 * which must be in scope at every HASH_ADD. */
#define HASH_NONFATAL_OOM 1
#define uthash_nonfatal_oom(elt) (oom = true)
#include <uthash.h>

#define GROWTHS_MAX 64 /* growths of a thread remembered, for what releases them */
#define NESTED_MAX 4 /* functions told apart in one unclaimed call, for recursion */

/* Inclusive figures of the topmost calls of one function within a call. */
struct nested {
    uint32_t code; /* figures as they were added to its totals: weighted */
    int64_t rss;
    uint64_t own, ns;
};

/* What a function's own part of one call took, less what was seen to be released of
 * it since. */
struct growth {
    uint64_t time; /* of the call's return */
    int64_t rss;   /* bytes, above 0 */
    uint32_t code;
    uint8_t weight_log2;
};

/* A finished call that no caller has claimed; [0] of nested is itself. Two put
 * together span from the first's start to the second's end. */
struct pending {
    uint64_t start, end;
    uint64_t since; /* its entry, at the latest: start less what its duration leaves out */
    int64_t rss;
    int64_t taken; /* released in its caller right after it, and taken off growths */
    uint64_t own, ns;
    int64_t rss_start, rss_end; /* with has_rss: bytes, of the process, at its entry, at its return */
    uint16_t depth, nested_count;
    bool has_rss;
    uint8_t weight_log2; /* of its record; of two put together the greater */
    struct nested nested[NESTED_MAX]; /* nested_count of them; the rest is not even cleared */
};

/* The line that runs now at one depth of one thread. */
struct line_level {
    struct model_line *line; /* NULL: none */
    bool has_rss;
    uint64_t rss;          /* bytes, at the line's event */
    uint64_t own_at_line;  /* of thread_slot.own_count */
    uint64_t own_at_entry;
};

struct thread_slot {
    struct model_thread pub;
    char *name;              /* owned; NULL when not announced */
    struct pending *pending; /* a stack, newest last; grows to MODEL_PENDING_MAX */
    unsigned pending_count, pending_room;
    struct growth growth[GROWTHS_MAX]; /* by time, newest last */
    unsigned growth_count;
    struct line_level *levels; /* MP_DEPTH_MAX + 1 of them; NULL before the first line record */
    uint64_t own_count;        /* bytes seen through line records, and at returns */
    uint64_t own_carry;        /* of own_count: will be in the next line record again */
    UT_hash_handle hh;         /* by pub.id; in order of last use */
};

struct code_slot {
    struct model_code pub;   /* its rss_self is less by what model_settle took */
    int64_t rss_self;        /* without that */
    int64_t rss_doubtful;    /* bytes that went during its calls, by whichever thread */
    int64_t rss_grown;       /* bytes that it took; never decreases */
    int64_t rss_matched;     /* bytes of its growth that were seen to be released; never decreases */
    char *strings[3]; /* name, file, module; owned */
};

struct line_key {
    uint32_t code_id, line;
};

struct line_slot {
    struct line_key key;
    struct model_line pub;
    UT_hash_handle hh;
};

/* A call that changed RSS, remembered to find overlaps. */
struct busy {
    uint64_t start, end;
    uint32_t thread;
};
#define BUSY_MAX 64

struct model {
    uint64_t page_size;
    struct code_slot *codes[MP_CODES_MAX + 1];
    size_t codes_end; /* beyond the highest id in use */
    struct thread_slot *threads;
    struct thread_slot *last; /* of them, the one used last; NULL: none */
    struct line_slot *lines;
    struct model_totals totals;
    uint64_t rss_first_ns, rss_last_ns;
    /* calls that faulted much memory by huge pages, by small ones: with more of the former
     * growth is not bounded by faults */
    unsigned huge_calls, plain_calls;
    struct busy busy[BUSY_MAX]; /* a ring */
    unsigned busy_next;
};

/* a + b, kept within 64 bits: figures are foreign. */
static inline int64_t add_sat(int64_t a, int64_t b)
{
    int64_t r;

    if (!__builtin_add_overflow(a, b, &r))
        return r;
    return b < 0 ? INT64_MIN : INT64_MAX;
}

static inline int64_t sub_sat(int64_t a, int64_t b)
{
    int64_t r;

    if (!__builtin_sub_overflow(a, b, &r))
        return r;
    return b < 0 ? INT64_MAX : INT64_MIN;
}

static inline uint64_t addu_sat(uint64_t a, uint64_t b)
{
    return a + b < a ? UINT64_MAX : a + b;
}

static inline uint64_t subu_sat(uint64_t a, uint64_t b)
{
    return a < b ? 0 : a - b;
}

/* v, 2^n times. */
static inline int64_t weigh(int64_t v, unsigned n)
{
    int64_t r;

    if (!__builtin_mul_overflow(v, (int64_t)1 << n, &r))
        return r;
    return v < 0 ? INT64_MIN : INT64_MAX;
}

static inline uint64_t weighu(uint64_t v, unsigned n)
{
    return v > UINT64_MAX >> n ? UINT64_MAX : v << n;
}

static inline void self_add(struct code_slot *c, int64_t bytes)
{
    c->rss_self = add_sat(c->rss_self, bytes);
    c->pub.rss_self = add_sat(c->pub.rss_self, bytes);
}

/* model_release.c: a release of `size` bytes in a call, in the time between two of its
 * callees or after the last. */
struct release {
    int64_t size;   /* bytes, above 0 */
    uint64_t since; /* when that call began, or earlier; older growths are not its callees' */
    uint64_t last;  /* when its callee that returned last began */
    bool wide;      /* growths of other callees than that one count as well */
};
/* Takes the release off the growths of t that fit it best. Returns how much of it. */
int64_t release_match(struct model *m, struct thread_slot *t, const struct release *r);
/* Remembers a growth, the newest. */
void release_growth(struct thread_slot *t, const struct growth *g);
/* Sets every function's rss_self from what is known by now (see model.h): a cache that
 * readers bring up to date, which is no change of the model to them. */
void model_settle(const struct model *m);

/* Adds a finished call to its function's totals. 0 or -ENOMEM. */
int model_call(struct model *m, struct thread_slot *t, struct code_slot *c, const struct mp_record *r) MP_MUST_CHECK;

/* Adds a visit. 0 or -ENOMEM. */
int model_line_visit(struct model *m, struct thread_slot *t, const struct mp_record *r) MP_MUST_CHECK;

/* A call returned: its last line ends with it. */
void model_line_return(struct model *m, struct thread_slot *t, const struct mp_record *r);

#endif
