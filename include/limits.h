/* Limits that launcher and payload share. Each is a bound on memory or time in
 * the target; raising one raises what a target can be charged. */
#ifndef MP_LIMITS_H
#define MP_LIMITS_H

#define MP_DEPTH_DEFAULT 3     /* calls below the base that are traced */
#define MP_DEPTH_MAX 128       /* deepest level that --depth accepts; 0 on the command line means this */
#define MP_NAME_MAX 255        /* bytes of a function name kept (UTF-8, cut at a character) */
#define MP_PATH_MAX 1023       /* bytes of a file name kept; a longer one keeps its tail */
#define MP_THREAD_NAME_MAX 63  /* bytes of a thread's name kept */
#define MP_PATTERN_MAX 128     /* bytes of one glob, NUL included */
#define MP_PATTERNS_MAX 16     /* globs of one kind (--function, --module, ...) */

#define MP_CODES_MAX 32768     /* distinct functions named; further ones are counted under id 0 */
#define MP_THREADS_MAX 1024    /* threads with a ring at one time; further ones are counted as lost */
#define MP_RING_RECORDS 8192   /* records a thread's ring holds, 640 KiB: a power of two. Its pages are used from
                                  the first on, so that only a flood of records uses them all */

#define MP_RSS_FRESH_NS 20000  /* a thread without page faults takes its last reading of statm for so long */
#define MP_RSS_CALM_NS 500000  /* and at the edges of a function that was read MP_RSS_CALM_AFTER times, since memory */
#define MP_RSS_CALM_AFTER 64   /* last moved without a fault of the thread's, for so long */
#define MP_COLD_NS 20000       /* an edge so long after the thread's last one finds its caches full of other things */
#define MP_ROLLUP_NS_MAX 5000000ull /* a reading of smaps_rollup that takes longer is not made in a hook: the thread
                                  stands meanwhile, with the GIL, and so does every mmap of the process. It is
                                  as long as CPython lets one thread wait for another anyway (switch interval) */
#define MP_ROLLUP_PAGES_MAX 100000 /* resident pages, 70 ns each on the machine of docs/benchmarks.md: above it
                                  that is not even tried */
#define MP_SAMPLE_LOG2_MAX 10  /* the governor samples one call in 1024 at the rarest */

#define MP_LEASE_MS 1000       /* the agent is unhooked within this time of the launcher's end closing */
#define MP_ACK_WAIT_MS 500     /* an agent that was asked to leave lets the asker read its account so long */
#define MP_GO_WAIT_MS 5000     /* the loader waits this long for the launcher's first byte */
/* What the payload takes at most at one time from the target's own limits: judged before
 * it is touched (src/inject/room.c). */
#define MP_NEED_FDS 6          /* five held or under way at the start, one looked at now and then */
#define MP_NEED_THREADS 2      /* raw thread and worker; at the end worker and reaper */
#define MP_NEED_AS (4u << 20)  /* region, agent, tables: 1.4 MiB; a ring for each of a few threads */
#define MP_NEED_DATA MP_NEED_AS /* nearly all of it is written to */

#define MP_FRAME_MAX (256u << 10) /* bytes of one wire frame, header included */

#endif
