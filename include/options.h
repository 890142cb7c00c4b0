/* What the launcher asks of the agent; sent in MP_MSG_GO and shown by status. */
#ifndef MP_OPTIONS_H
#define MP_OPTIONS_H

#include <stdint.h>

#include "limits.h"

#define MP_OPT_LINES 1u      /* a record per executed line of traced functions */
#define MP_OPT_NO_ROLLUP 2u  /* never read smaps_rollup (uss and swap stay unmeasured) */
#define MP_OPT_CURE 4u       /* hook nothing: take out what an earlier agent left, then leave */

struct mp_patterns {
    uint32_t count;
    uint32_t reserved;
    char glob[MP_PATTERNS_MAX][MP_PATTERN_MAX]; /* NUL terminated; fnmatch(3) syntax with * ? [set] */
};

struct mp_options {
    uint32_t flags; /* MP_OPT_* */
    uint32_t depth; /* 1 .. MP_DEPTH_MAX */
    uint64_t min_bytes;   /* records with |rss delta| and own below this are not sent; 0: all */
    uint64_t min_time_ns; /* records shorter than this are not sent; 0: all */
    int32_t thread;       /* only this tid (target's namespace); 0: all */
    uint32_t rollup_budget_ppm; /* share of wall time that smaps_rollup may take, in millionths */
    uint32_t max_overhead_ppm;   /* --max-overhead: the governor's goal, in millionths of the target's own work; 0: off */
    uint32_t reserved;
    struct mp_patterns root;     /* base functions; none: the base settles by itself */
    struct mp_patterns function; /* qualified or bare names */
    struct mp_patterns module;   /* module's __name__ */
    struct mp_patterns exclude;  /* names or modules */
};

#endif
