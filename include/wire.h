/* The wire: frames on the stream socket between launcher and agent.
 *
 *   +--------+--------+--------+---------------------+
 *   | len 4  | type 2 | count2 | payload (len - 8)   |
 *   +--------+--------+--------+---------------------+
 *
 * len counts the header too and is 8 .. MP_FRAME_MAX. Little endian, natural
 * alignment, same machine. Version rule: MP_ABI (boot.h) must be equal on both
 * ends, HELLO says it first; type numbers are never reused. The launcher treats
 * every byte as foreign: the target may be compromised.
 *
 * Order: agent HELLO; launcher GO; agent SELFTEST, HOOKED (or FAILED, then BYE);
 * then THREAD/CODE before the first record that names them, RECORDS, LOST, STATS, GOVERN;
 * BYE is the last frame, always; then the agent closes its end. */
#ifndef MP_WIRE_H
#define MP_WIRE_H

#include <stddef.h>
#include <stdint.h>

#include "limits.h"
#include "options.h"

enum mp_msg {
    /* agent to launcher */
    MP_MSG_HELLO = 1,    /* struct mp_hello */
    MP_MSG_SELFTEST = 2, /* struct mp_selftest */
    MP_MSG_HOOKED = 3,   /* struct mp_slots: as they were found, before the hook */
    MP_MSG_FAILED = 4,   /* struct mp_failed */
    MP_MSG_CODE = 5,     /* struct mp_code, then name, file, module: bytes, no NUL */
    MP_MSG_THREAD = 6,   /* struct mp_thread, then name bytes */
    MP_MSG_RECORDS = 7,  /* count x struct mp_record */
    MP_MSG_LOST = 8,     /* struct mp_lost */
    MP_MSG_STATS = 9,    /* struct mp_stats, once a second and before BYE */
    MP_MSG_BYE = 10,     /* struct mp_bye */
    MP_MSG_NOTE = 11,    /* struct mp_note, then text bytes: something the user should know */
    MP_MSG_LINE = 12,    /* reserved */
    MP_MSG_GOVERN = 13,  /* struct mp_govern: the governor gave something up, or back */
    /* launcher to agent */
    MP_MSG_GO = 64,      /* struct mp_options */
    MP_MSG_DETACH = 65   /* empty */
};

struct mp_frame {
    uint32_t len;
    uint16_t type;
    uint16_t count;
};

struct mp_hello {
    uint32_t abi;
    int32_t pid; /* in the target's namespace */
    int32_t tid;
    uint32_t py_version; /* as in struct mp_boot */
};

/* What the agent found out about the probes, in this process on this kernel. */
struct mp_selftest {
    uint32_t pages_touched;   /* faulted on purpose */
    int32_t statm_error;      /* pages that statm's change differs by from pages_touched: the error bar */
    int32_t minflt_error;     /* likewise for RUSAGE_THREAD minor faults */
    uint32_t flags;           /* MP_SELF_* */
    uint64_t statm_ns;        /* cost of one reading */
    uint64_t rusage_ns;
    uint64_t clock_ns;
    uint64_t rollup_ns;       /* 0 when smaps_rollup can't be read */
    uint64_t page_size;
};
#define MP_SELF_STATM 1u   /* statm readable */
#define MP_SELF_ROLLUP 2u  /* smaps_rollup readable */
#define MP_SELF_THP 4u     /* a fault of the test brought a huge page */
#define MP_SELF_SYNC 8u    /* this kernel counts faults late; the thread that reads statm makes its own count */
#define MP_SELF_ROLLUP_LONG 16u /* a reading of smaps_rollup takes longer than MP_ROLLUP_NS_MAX: none is made */

/* The interpreter's hook slots, and who holds them. Equal before the hook and
 * after the unhook: that is what `clean` means for the interpreter. */
struct mp_slots {
    uint64_t eval_frame;   /* pointer in the slot; 0 where default is stored as NULL */
    uint64_t eval_default; /* _PyEval_EvalFrameDefault */
    uint32_t profile_threads; /* thread states with a profile function */
    uint32_t trace_threads;   /* thread states with a trace function */
    uint32_t monitoring_tools; /* bit i: sys.monitoring tool id i in use (3.12+) */
    uint32_t hook; /* enum mp_hook: what we install */
};
enum mp_hook { MP_HOOK_NONE = 0, MP_HOOK_THUNK = 1, MP_HOOK_MONITORING = 2 };

enum mp_fail {
    MP_FAIL_NONE = 0,
    MP_FAIL_FINALIZING = 1,  /* the interpreter is shutting down */
    MP_FAIL_AUDIT = 2,       /* an audit hook vetoed */
    MP_FAIL_TOOL_IDS = 3,    /* no free sys.monitoring tool id */
    MP_FAIL_LAYOUT = 4,      /* a structure of the interpreter is not as expected */
    MP_FAIL_TRACER = 5,      /* --lines: a debugger or coverage holds the trace slot */
    MP_FAIL_MEMORY = 6,      /* mmap refused */
    MP_FAIL_PROC = 7,        /* /proc/self/statm can't be opened */
    MP_FAIL_ABI = 8,
    MP_FAIL_PYTHON = 9,      /* a C-API call failed; text says which */
    MP_FAIL_GIL = 10,        /* the launcher left while the agent waited for the GIL */
    MP_FAIL_CUT = 11,        /* the target closed or replaced descriptors of ours */
    MP_FAIL_NO_GIL = 12,     /* 3.6 has no GIL yet, and none could be made */
    MP_FAIL_EXECMEM = 13     /* mprotect refused to make code executable */
};

struct mp_failed {
    uint32_t code; /* enum mp_fail */
    int32_t err;   /* errno or 0 */
    char text[240];
};

struct mp_code {
    uint32_t id; /* 1 .. MP_CODES_MAX; ids never return within a session */
    uint32_t firstlineno;
    uint32_t flags; /* MP_CODE_* */
    uint16_t name_len;   /* qualified name where Python has one (3.11+), else the bare name */
    uint16_t file_len;
    uint16_t module_len; /* 0: not known */
    uint16_t reserved;
};
#define MP_CODE_GENERATOR 1u /* generator, coroutine or async generator: a record is one run of it */
#define MP_CODE_ROOT 2u      /* matched --root */
#define MP_CODE_CUT 4u       /* a string was longer than its limit */

struct mp_thread {
    uint32_t id;  /* 1 .. ; never returns within a session */
    int32_t tid;  /* in the target's namespace */
    uint16_t name_len;
    uint16_t reserved;
    uint32_t flags; /* MP_THREAD_* */
};
#define MP_THREAD_MAIN 1u
#define MP_THREAD_RENAMED 2u /* the id was announced before; this is its better name */

enum mp_record_type { MP_REC_CALL = 1, MP_REC_LINE = 2 };

/* One record: 80 bytes, in a ring and on the wire alike. */
struct mp_record {
    uint64_t time_ns;  /* CLOCK_MONOTONIC: return of the call; the line's event */
    uint64_t dur_ns;   /* call: entry to return. line: 0 */
    uint32_t code_id;  /* 0: a function beyond MP_CODES_MAX */
    uint32_t thread_id;
    uint8_t type;      /* enum mp_record_type */
    uint8_t weight_log2; /* call: it stands for 2^n calls like it (the governor samples); 0 as a rule */
    uint16_t flags;    /* MP_REC_* */
    uint16_t depth;    /* 0 is the --root function itself, 1 the first call below the base */
    uint16_t probe_units;    /* call: what dur_ns leaves out, in MP_PROBE_UNIT_NS, rounded up */
    uint32_t line;     /* line: its number. call: 0 */
    int32_t rss_delta_pages; /* call: exit - entry, whole process */
    uint32_t rss_pages;      /* at time_ns, whole process */
    uint32_t own_pages; /* minor faults of this thread: call: between entry and exit;
                           line: since this thread's previous line record, or call entry */
    uint64_t uss_bytes;   /* with HAS_USS: Private_Clean + Private_Dirty + Private_Hugetlb at time_ns */
    uint64_t swap_bytes;  /* with HAS_USS */
    int64_t uss_delta;    /* with HAS_USS_DELTA: measured at both edges */
    uint64_t peak_bytes;  /* with HAS_PEAK: ru_maxrss */
};
_Static_assert(sizeof(struct mp_record) == 80, "record layout");

/* Reading smaps_rollup inside a call is no part of its duration; time_ns - dur_ns is
 * late by that much as the call's entry. */
#define MP_PROBE_UNIT_NS 65536u

#define MP_REC_HAS_RSS 1u
#define MP_REC_HAS_OWN 2u
#define MP_REC_HAS_USS 4u
#define MP_REC_HAS_USS_DELTA 8u
#define MP_REC_HAS_PEAK 16u
#define MP_REC_RAISED 32u   /* the call ended by an exception */
#define MP_REC_YIELDED 64u  /* monitoring only: the run ended by yield or await */
#define MP_REC_RESUMED 128u /* the run began by a resume, not by a call */

/* What the governor keeps giving up, one on top of the other, while the cost stays
 * above --max-overhead. */
enum mp_stage {
    MP_STAGE_FULL = 0,    /* as asked for */
    MP_STAGE_ROLLUP = 1,  /* smaps_rollup is read more rarely */
    MP_STAGE_DEPTH = 2,   /* the traced depth is less */
    MP_STAGE_SAMPLED = 3, /* calls are sampled, records have weights */
    MP_STAGE_QUIET = 4    /* nothing is traced */
};
#define MP_STAGES 5

/* Cost is what hooks and probes took, over what the target worked by itself
 * meanwhile: its CPU time without the agent's thread and without the hooks. In
 * millionths; a process that only waits may have a great cost of next to nothing. */
#define MP_COST_MAX_PPM 1000000000u /* 1000 times its own work; greater ones are told as this */

/* What is in force from time_ns on, and the measurement that led to it. Sent at every
 * change, and never when --max-overhead is 0. */
struct mp_govern {
    uint64_t time_ns;     /* CLOCK_MONOTONIC */
    uint32_t stage;       /* enum mp_stage: of all that is given up, the last in order */
    uint32_t depth;       /* traced depth, 1 .. that of the options */
    uint32_t sample_log2; /* 0 .. MP_SAMPLE_LOG2_MAX: one call in 2^n is measured */
    uint32_t rollup_ppm;  /* budget of smaps_rollup */
    uint64_t window_ns;   /* the window that was judged: its length, */
    uint64_t hook_ns;     /* time in hooks and probes, */
    uint64_t work_ns;     /* CPU time of the target's own work */
    uint32_t cost_ppm;    /* 0 .. MP_COST_MAX_PPM */
    uint32_t floor_ppm;   /* of it: what a hook costs by its presence: not judged, goes only with the hook */
};

/* The governor's account since the hook: in STATS, in BYE, and in the control block. */
struct mp_account {
    uint64_t work_ns;  /* CPU time of the target's own work */
    uint64_t agent_ns; /* CPU time of the agent's own thread, which runs beside the target's */
    uint64_t floor_ns; /* of hook_ns: what a hook costs by its presence */
    uint64_t stage_ns[MP_STAGES]; /* wall time spent in each stage */
    uint64_t blind_ns; /* 3.12+: a function that was only called below the depth is looked at again
                          after so long, and not seen before; 0: all are */
    uint64_t rest_ns;  /* 3.11: wall time that the hook was out of its slot while a thread was deep on
                          its C stack: calls of other threads then were not seen */
    uint32_t cost_ppm;         /* of the last window */
    uint32_t deepest;          /* enum mp_stage: the furthest one reached */
    uint32_t least_depth;      /* the shallowest depth that was in force */
    uint32_t most_sample_log2; /* the highest weight that was in force */
};

struct mp_lost {
    uint64_t count;     /* since the last LOST */
    uint32_t thread_id; /* 0: several or unknown */
    uint32_t reason;    /* enum mp_lost_reason */
};
enum mp_lost_reason {
    MP_LOST_RING = 1,    /* the launcher did not read fast enough */
    MP_LOST_THREADS = 2, /* more threads than MP_THREADS_MAX */
    MP_LOST_DEPTH = 3    /* deeper nesting of traced calls than the agent keeps */
};

struct mp_stats {
    uint64_t time_ns; /* CLOCK_MONOTONIC */
    uint64_t records; /* since the start */
    uint64_t lost;
    uint64_t filtered; /* measured, but below --min-bytes or --min-time */
    uint64_t events;  /* hook entries of any kind, traced or not */
    uint64_t hook_ns; /* estimate: time in hooks and probes */
    uint64_t rollup_ns; /* of which smaps_rollup */
    uint64_t rss_bytes; /* now */
    uint64_t uss_bytes; /* last measured, 0 if never */
    uint64_t peak_bytes;
    uint32_t threads;
    uint32_t codes;
    struct mp_account account;
};

struct mp_bye {
    uint32_t reason;  /* enum mp_bye_reason */
    uint32_t residue; /* MP_RESIDUE_* (control.h) */
    uint64_t records;
    uint64_t lost;
    uint64_t hook_ns;
    uint64_t inflight; /* frames that still run through the thunk */
    struct mp_slots slots; /* after the unhook */
    struct mp_account account;
};
enum mp_bye_reason {
    MP_BYE_DETACH = 1,   /* asked over the socket */
    MP_BYE_REQUEST = 2,  /* asked through the control block */
    MP_BYE_LEASE = 3,    /* the launcher's end closed */
    MP_BYE_FAILED = 4,   /* never hooked */
    MP_BYE_FINALIZE = 5, /* the interpreter shuts down */
    MP_BYE_CURED = 6,    /* MP_OPT_CURE did its work */
    MP_BYE_CUT = 7       /* the target closed or replaced descriptors of ours */
};

struct mp_note {
    uint32_t code; /* enum mp_note_code */
    uint16_t text_len;
    uint16_t reserved;
};
enum mp_note_code {
    MP_NOTE_LINES_BUSY = 1, /* --lines: this thread's trace slot belongs to another tool; skipped */
    MP_NOTE_CHAINED = 2,    /* another eval-frame function was there and is called after ours */
    MP_NOTE_GIL = 3,        /* waiting for the GIL */
    MP_NOTE_OTHER = 4,
    MP_NOTE_ROLLUP = 6,     /* smaps_rollup is no longer read: a reading takes longer than MP_ROLLUP_NS_MAX */
    MP_NOTE_FORK = 5        /* of the launcher: os.fork() will warn of threads while the agent is there */
};

#endif
