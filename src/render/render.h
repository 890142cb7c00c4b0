/* Outputs: each renderer writes what the model and the events say to a FILE.
 * Every function returns 0 or -errno of the write (-EPIPE when the reader left),
 * -ENOMEM where it builds something. Nothing is flushed here: the caller does it
 * when the socket has no more for now, and errors that stdio keeps back until
 * then come from its fflush. */
#ifndef MP_RENDER_H
#define MP_RENDER_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

#include "base/err.h"
#include "stream/model.h"
#include "stream/stream.h"

/* What the first lines of an output say. Strings are sanitised by the renderer; NULL is "". */
struct render_meta {
    const char *tool_version;
    pid_t pid;
    uint64_t starttime;      /* clock ticks since boot */
    const char *exe, *cmdline;
    uint32_t py_version;
    bool py_static;
    unsigned glibc_major, glibc_minor;
    unsigned threads;
    uint64_t rss_bytes;
    uint64_t page_size;
    uint64_t pause_ns;       /* of the stop in which it was injected */
    uint64_t pause_sum_ns;   /* of all stops of the injection, */
    unsigned attempts;       /* so many */
    struct mp_options options;
    struct mp_selftest selftest;
    struct mp_slots slots;   /* before */
    int64_t realtime_offset_ns; /* add to CLOCK_MONOTONIC for CLOCK_REALTIME */
    uint64_t start_mono_ns;  /* CLOCK_MONOTONIC when hooked: NDJSON's t_ns counts from here; 0: from the first event */
};

struct render_end {
    const char *reason;      /* "duration", "signal", "count", "target_exited", "stdout_closed", "detached", "agent", ... */
#define RENDER_END_CUT "descriptors_closed" /* as reason: the target closed what the session talks over */
    bool clean;
    bool unseen;             /* not clean for want of a look: residue_text says what stood in its way */
    uint64_t records, lost;
    bool tail_missing;       /* it ended without a goodbye: what was in the rings then is not in, and not counted */
    uint64_t hook_ns;        /* time in hooks and probes */
    double cost_pct;         /* hook_ns over wall time, in per cent of one CPU */
    double overhead_pct;     /* hook_ns over the CPU time of the target's own work; below 0: not known */
    uint32_t max_overhead_ppm; /* --max-overhead; 0: off */
    uint32_t depth;            /* --depth */
    struct mp_account account; /* the governor's */
    uint64_t pause_ns, pause_sum_ns; /* as in struct render_meta; there is no stop at the detach */
    unsigned attempts;
    uint64_t wall_ns;
    uint32_t residue;        /* MP_RESIDUE_* */
    const char *residue_text; /* lines; sanitised by the renderer; "" or NULL when clean */
};

struct render; /* one output: vtable, FILE, colour, state */

struct render_options {
    FILE *out;       /* borrowed */
    bool color;
    bool lines;      /* --lines is on */
    unsigned width;  /* terminal columns; 0: not a terminal, never cut */
};

struct render *render_text_new(const struct render_options *o);   /* the live text stream */
struct render *render_ndjson_new(const struct render_options *o); /* docs/ndjson.md */
void render_free(struct render *r); /* NULL is fine; closes nothing */

int render_begin(struct render *r, const struct render_meta *meta) MP_MUST_CHECK;
/* Before or after model_event took ev: names are looked up in m. */
int render_event(struct render *r, const struct model *m, const struct stream_event *ev) MP_MUST_CHECK;
int render_finish(struct render *r, const struct model *m, const struct render_end *end) MP_MUST_CHECK;

/* The final ranking as a table. width as in struct render_options; a terminal also
 * gets no more than the RENDER_RANK_ROWS functions that grew most, the rest in one row. */
#define RENDER_RANK_ROWS 40
int render_ranking(FILE *out, const struct model *m, bool color, unsigned width) MP_MUST_CHECK;

/* The original's table, byte for byte in its format. A figure that the first
 * visit of a line did not measure is -1, which is the original's own word for it. */
int render_mempulse(FILE *out, const struct model *m) MP_MUST_CHECK;

/* "detached from PID: N records, M lost, hook cost X% (C% of a CPU), <render_pause>; nothing
 * left behind". The cost is as render_cost tells it. What the governor gave up stands
 * behind, and that the end of the stream is missing, where it is. */
int render_verdict(FILE *out, pid_t pid, const struct render_end *end) MP_MUST_CHECK;

/* The --json error object of docs/exit-codes.md, one line. pid <= 0: none. */
int render_error_json(FILE *out, pid_t pid, const struct mp_failure *f) MP_MUST_CHECK;

/* Words for the governor. Stage names are stable: "full", "rollup", "depth", "sampled", "quiet". */
const char *render_stage_name(uint32_t stage);
/* 100 * hook over work, or -1 when no work was measured. */
double render_overhead_pct(uint64_t hook_ns, uint64_t work_ns);
/* "hook cost 1.62% (1.10% of a CPU)"; without the first where no work was measured (work_ns
 * 0). A percentage of next to nothing says nothing: below RENDER_WORK_MIN_NS it is "hook
 * cost 382 us", whatever that is in per cent. Returns buf, 96 bytes hold all. */
#define RENDER_WORK_MIN_NS 10000000u
char *render_cost(char *buf, size_t len, uint64_t hook_ns, uint64_t work_ns, double cost_pct);
/* "2%", "0.0078%": three digits. buf of at least 24 bytes. Returns buf. */
char *render_ppm(char *buf, size_t len, uint64_t ppm);
/* "paused 184 us"; after more than one stop "paused 184 us (3 stops, 1404 us in all)". buf of
 * at least 96 bytes. Returns buf. */
char *render_pause(char *buf, size_t len, uint64_t pause_ns, uint64_t sum_ns, unsigned stops);
/* "depth 1 of 3, 1 call in 8": what is in force, as far as it is less than asked for.
 * g may be foreign in every word. Returns buf, 128 bytes hold all. */
#define RENDER_WORDS 256
char *render_in_force(char *buf, size_t len, const struct mp_govern *g, const struct mp_options *asked);
/* "depth down to 1 of 3 for 4.20 s, nothing traced for 1.00 s"; "" when nothing was. Returns buf. */
char *render_given_up(char *buf, size_t len, const struct mp_account *a, uint32_t depth);

/* Human sizes: "+1.5 MiB", "-12 KiB", "0 B"; at most 9 columns; binary units; buf
 * of at least 24 bytes. sign: growth gets a '+'. Returns buf. */
char *render_size(char *buf, size_t len, int64_t bytes, bool sign);

/* Human durations: "850 ns", "12 us", "1.23 ms", "45.6 s", "16m40s", "3h05m",
 * "12d03h"; at most 7 columns below 100 days. Returns buf. */
char *render_duration(char *buf, size_t len, uint64_t ns);

#endif
