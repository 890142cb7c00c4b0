/* The agent's state, and the contract between its files.
 *
 * Who runs what:
 *   hooks   on the target's threads, always holding the GIL: thunk enter/exit or
 *           monitoring callbacks, then trace, codes, threads, meter, ring (as
 *           producer). At most one hook runs at a time, so what only hooks
 *           write needs no lock.
 *   agent   one thread of ours (main.c): drains rings (as consumer), talks to the
 *           launcher, takes the GIL only to install, to uninstall and to read
 *           thread names.
 * Shared between the two without the GIL: ring heads and tails, thread states,
 * the list of new codes, counters. Each says who writes it.
 *
 * Inside a hook: no lock, no allocation from the target's allocators, no Python
 * object made unless the API demands it, exception state kept. */
#ifndef AGENT_H
#define AGENT_H

#include "boot.h"
#include "control.h"
#include "limits.h"
#include "options.h"
#include "wire.h"

#include "agent/layout.h"
#include "agent/sys.h"
#include "agent/thunk.h"

#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)
#define load_acquire(p) __atomic_load_n(p, __ATOMIC_ACQUIRE)
#define store_release(p, v) __atomic_store_n(p, v, __ATOMIC_RELEASE)

/* ---- codes.c: functions, named once -------------------------------------- */

#define CODE_GENERATOR 1u /* generator, coroutine, async generator */
#define CODE_ROOT 2u      /* matches --root */
#define CODE_SCOPE 4u     /* passes --function, --module and --exclude */
#define CODE_BASE 8u      /* threading's own start of a thread: lifts the base, is never traced */
#define CODE_USS_SEEN 16u /* its first visit has been measured with smaps_rollup */

/* A function as the user knows it; never moves, never freed before the end.
 * Written by hooks; what the agent reads is published by `next`. */
struct code {
    uint32_t id; /* 0: beyond MP_CODES_MAX */
    uint32_t flags; /* CODE_* */
    uint64_t hash;  /* of name, file, line and module */
    struct code *hnext;
    struct code *next; /* in order of first sight; release-stored by hooks, read by the agent */
    uint32_t near_in;  /* 3.12+: the stamp at which it was last called within the traced depth (hook_monitor.c) */
    uint32_t active;   /* 3.12+: tracked calls of it that have not returned */
    uint32_t tick;     /* g.tick of the counts that follow, of calls while the governor samples */
    uint32_t calls, calls_before; /* in this tick, in the one before */
    uint32_t calm, calm_since; /* meter.c: readings of statm at its edges while g.moves was calm_since */
    uint32_t text_len; /* of name, file, module, one after the other, behind this struct */
    struct mp_code wire;
    char text[];
};

/* The code behind a live code object; `globals` is the frame's dict or NULL.
 * Never NULL: beyond the limits it is a shared one with id 0. Costs a hash
 * probe and four compares when known. */
struct code *code_find(const void *pycode, void *globals);
struct code *code_known(const void *pycode); /* NULL when not seen before */
int codes_init(void);
void codes_release(void); /* drops the references held; needs the GIL */
extern struct code code_overflow;

#define MEM_HEADER 64 /* bytes that memory.c keeps before each mapping's content */

/* ---- threads.c ------------------------------------------------------------ */

#define DEPTH_NONE (-0x40000000) /* below any true depth */
#define SHADOW_MAX (2 * MP_DEPTH_MAX)

enum call_kind {
    CALL_PASS,   /* within the depth, not in scope: kept for its place only */
    CALL_RECORD, /* measured; a record when it returns */
    CALL_BASE,   /* lifts the base while it runs (CODE_BASE) */
    CALL_SKIP,   /* the governor samples, and this one was not drawn: nothing below it counts */
    CALL_GUARD   /* --lines before 3.12: first call below the traced depth, line tracing rests */
};

/* One tracked call: on the C stack of the thunk (up to 3.11), or in the thread's
 * shadow stack (3.12 and later). Holds no pointer into another frame's C stack:
 * greenlets copy stacks away. */
struct call {
    uint64_t gen; /* first: the thunk compares it */
    struct thread *thread;
    struct code *code;
    const void *frame; /* interpreter's frame */
    int32_t depth_abs; /* as trace.c counts: frames below, or from the root */
    int32_t prev_base;
    uint8_t kind;      /* enum call_kind */
    uint8_t has_uss;   /* uss0 is measured */
    uint8_t prev_armed; /* lines.c: state to put back */
    uint8_t prev_root; /* trace.c: whether the thread was inside a root */
    uint16_t flags;    /* MP_REC_RESUMED */
    uint16_t depth;
    /* what was the thread's top before, up to 3.11 */
    const void *prev_frame;
    union {
        uintptr_t prev_sp;
        const void *pycode; /* under monitoring */
    };
    int32_t prev_abs;
    uint16_t prev_line_depth; /* lines.c */
    uint8_t weight_log2; /* as in struct mp_record */
    uint8_t prev_weight_log2;
    struct code *prev_line_code;
    /* the meter at entry */
    uint64_t time0;
    int64_t rss0;
    uint64_t faults0;
    uint64_t uss0;
    uint64_t probe0; /* thread's probe_ns */
};
_Static_assert(sizeof(struct call) <= THUNK_CALL_SIZE, "thunk.S reserves this much");

enum thread_state {
    THREAD_EMPTY = 0,
    THREAD_LIVE = 1,   /* hooks use it */
    THREAD_EXITED = 2, /* the agent saw its tid gone; the ring may hold records */
    THREAD_FREE = 3    /* drained: a hook may give it to another thread */
};

#define TOUCH_WORDS 4

/* A thread of the target with its ring; one mapping each. */
struct thread {
    /* hooks */
    int32_t tid;
    uint32_t id; /* on the wire; never repeats */
    const void *tcb; /* pthread_t: tells a reused tid, and is threading's ident */
    struct thread *hnext;
    bool skip; /* --thread names another one */
    bool fresh; /* no event yet */
    bool quiet; /* 3.12+: all that the innermost tracked call calls is deeper than the limit, or skipped */
    bool skipping; /* up to 3.11: inside a CALL_SKIP */
    bool resting;  /* 3.11: this thread took the hook out of its slot (hook_thunk.c) */
    uint16_t ntracked, tracked_max; /* up to 3.11: calls on its stack that are tracked, and may be */
    uintptr_t stack_floor; /* 3.11: below this address the hook rests; 0: not known */
    bool pre_root; /* up to 3.11: a --root function that was entered before the hook may be on its stack */
    bool in_root;  /* base counts from a root */
    bool armed;    /* lines.c: c_tracefunc is ours, lines of the running call count */
    bool lines_busy; /* lines.c: its trace slot belongs to someone else */
    uint16_t line_depth;     /* lines.c: of the call that is armed */
    struct code *line_code;
    const void *top_frame; /* innermost tracked call's frame, NULL if none */
    uintptr_t top_sp;      /* address of its struct call */
    int32_t top_abs;
    int32_t base;  /* depth of the base; DEPTH_NONE: none (outside of any root) */
    int32_t limit; /* deepest depth that is tracked */
    uint32_t force; /* g.force that limit and quiet go by */
    const void *root_frame; /* 3.12+: of a --root function that was entered before the hook, or NULL */
    uint32_t nshadow; /* 3.12+ */
    uint32_t random; /* state of the governor's draw */
    uint8_t weight_log2; /* of calls inside the one that was drawn */
    uint64_t self_faults; /* faults that our own memory caused on this thread */
    uint64_t probe_ns;    /* spent in smaps_rollup on this thread */
    uint64_t line_faults; /* at the last line record */
    /* the last reading of statm on this thread: pages, when, and its raw fault count then */
    int64_t rss_pages;
    uint64_t rss_time, rss_faults;
    uint64_t edge_time; /* of the last edge that was measured */
    uint64_t touched[TOUCH_WORDS]; /* pages of this mapping that were written before, a bit each */
    /* ring: producer */
    uint64_t head; /* release-stored by hooks */
    uint64_t origin; /* the record in the ring's first place; changes only while the ring is empty */
    uint64_t tail_seen;
    uint64_t lost; /* written by hooks */
    uint32_t state; /* enum thread_state; see threads.c for who writes which */
    /* ring: consumer (the agent) */
    uint64_t tail __attribute__((aligned(64))); /* release-stored by the agent */
    uint64_t lost_sent;
    uint32_t announced_id; /* the id whose THREAD was sent */
    uint32_t named_id;     /* the id whose better name was sent */
    bool renamed; /* name was read from threading */
    uint16_t name_len;
    char name[MP_THREAD_NAME_MAX + 1];
    struct call shadow[SHADOW_MAX];
    struct mp_record ring[MP_RING_RECORDS] __attribute__((aligned(64)));
};
_Static_assert(sizeof(struct thread) + MEM_HEADER <= TOUCH_WORDS * 64 * 4096, "`touched` has a bit a page");

int threads_init(void);
struct thread *thread_find(int32_t tid); /* slow path of thread_current; NULL: no room */
/* The lowest address and the size of the calling thread's stack as its libc, or the
 * limit of the main thread's, has it; false: not known. */
bool thread_stack(uintptr_t *ret_lo, size_t *ret_size);
void threads_reap(void);  /* agent: flags threads whose tid is gone */
void threads_names(void); /* GIL: better names from threading */
/* Accounts for the first write to a page of the thread's mapping. */
static inline void thread_touch(struct thread *th, const void *at);

/* ---- meter.c --------------------------------------------------------------- */

struct reading {
    uint64_t time;
    int64_t rss; /* pages, without our own */
    uint64_t faults; /* of this thread, without those we caused */
    uint64_t peak; /* bytes */
    bool has_rss, has_own;
    bool foreign; /* this is not the target but a vfork child that borrows its memory */
};
struct rollup {
    uint64_t uss, swap; /* bytes */
};

int meter_init(void); /* 0 or -errno: statm can't be opened */
void meter_release(void);
uint64_t clock_ns(int clock);
/* Both return whether statm was read. code: whose edge it is; NULL for a line's, which is never calm. */
bool meter_entry(struct thread *th, struct code *code, struct reading *r); /* the clock last */
bool meter_exit(struct thread *th, struct code *code, struct reading *r);  /* the clock first */
bool meter_time_this(void); /* whether this edge is one of the few that are timed */
void meter_timed(uint64_t ns, bool statm); /* what such an edge took, without smaps_rollup; whether it read statm */
int64_t meter_rss(void); /* pages as statm says, or -1 */
bool rollup_due(uint64_t now);
bool rollup_news(void); /* since the last time: readings take too long, none is made any more */
/* Whether this moment deserves a reading and the budget allows it. */
bool rollup_wanted(uint64_t now, int64_t rss, const struct code *code);
/* Reads smaps_rollup, charging its time to the budget `times` times. */
bool meter_rollup(struct thread *th, unsigned times, struct rollup *ret);
void meter_selftest(struct mp_selftest *ret);

/* ---- ring.c ------------------------------------------------------------------ */

/* The next free record of the thread's ring, or NULL (counted as lost). Not
 * visible to the agent before ring_commit. */
struct mp_record *ring_reserve(struct thread *th);
void ring_commit(struct thread *th);

/* ---- trace.c: what both kinds of hook share --------------------------------- */

void call_begin(struct thread *th, struct call *c); /* measures the entry of a CALL_RECORD */
void call_end(struct call *c, unsigned flags);      /* measures the exit, writes the record */
void thread_set_base(struct thread *th, int32_t base);
/* The weight_log2 that the governor gives a call that begins, or -1: skip it. */
int call_weight(struct thread *th, struct code *code);

/* ---- scope.c ------------------------------------------------------------------ */

bool glob_match(const char *pattern, const char *s, size_t len);
struct code_names {
    const char *name, *bare, *module, *file; /* qualified name, bare name */
    size_t name_len, bare_len, module_len, file_len;
};
uint32_t scope_flags(const struct code_names *n); /* CODE_ROOT, CODE_SCOPE, CODE_BASE */

/* ---- hook_thunk.c, hook_monitor.c, hook.c ------------------------------------ */

/* All need the GIL. install: 0, or a negated enum mp_fail with g.fail filled and
 * nothing left in place. uninstall: never fails, fills residue. */
int hook_install(void);
void hook_uninstall(void);
void hook_inert(void); /* any thread, no GIL: hooks return at once from now on */
bool hook_stays_live(void); /* but are called until they are out of their slot */
void hook_slots(struct mp_slots *ret);
uint64_t hook_inflight(void);
uint64_t hook_quiet_count(void);
bool hook_cure(void); /* takes out what an earlier agent left; false: something may still call it */
/* A hook found the armed word 0: the agent is leaving, or this is a forked child, whose
 * armed page was wiped. There the hook, once, gives back what a child needs no more: the
 * descriptors, and up to 3.11 the eval_frame slot. Not a vfork child, which has its
 * parent's page. GIL. */
void hook_disarmed(void);
/* The governor's quiet: takes the hook out of the interpreter and puts it back. Calls
 * that run meanwhile are given up. Need the GIL. */
void hook_pause(void);
void hook_resume(void);
void hook_force(void); /* g.gov.depth or sample_log2 has changed; the agent thread, no GIL */
#define FADE_COST_NS 3000 /* of one DISABLE answer: the code object is instrumented anew, off and on */
/* 3.12+: looks again at functions whose events were switched off, when it is time.
 * Takes the GIL by itself. */
void hook_round(uint64_t now);

int thunk_install(void);
void thunk_uninstall(void);
void thunk_inert(void);
void thunk_traced(void); /* GIL */
bool thunk_recall(void); /* GIL: whether our trace function was in a thread, put back after an agent had left */
uint64_t thunk_get_slot(void);
bool thunk_cure(void); /* true: no thunk leads to an agent any more */
void thunk_leave_child(void);
/* inflight.c: in a forked child, how many of a thunk's calls were made by the thread that
 * it has of its parent's and have not returned; -1: can't be told. GIL. */
int thunk_calls_here(const struct thunk *t);
void thunk_pause(bool on);
void thunk_wake(void);
void thunk_round(uint64_t now); /* takes the GIL by itself */
struct thunk *thunk_page(void); /* NULL when there is none */

/* monitoring.c: sys.monitoring; hook_monitor.c: the callbacks */
int monitor_install(void);
void monitor_uninstall(void);
uint32_t monitor_tools(void);
int monitor_set_lines(void *pycode, bool on); /* LINE events of one code object; 0 or -1 */
void monitor_cure(void);
void monitor_pause(bool on);
int monitor_rearm(void); /* all that answered DISABLE comes back; 0 or -1 */
int events_init(void);   /* 0 or -ENOMEM */

/* ---- lines.c ---------------------------------------------------------------- */

int lines_install(void); /* GIL; 0 or negated enum mp_fail */
void lines_uninstall(void); /* GIL */
void lines_enter(struct thread *th, struct call *c, char *tstate); /* up to 3.11 */
void lines_exit(struct thread *th, const struct call *c);
void lines_leave(struct thread *th); /* up to 3.11: the exit of a call while the hook is off */
void lines_pause(void); /* up to 3.11; GIL */
unsigned lines_cure(uint64_t entry); /* up to 3.11; GIL: takes `entry` out of all threads; how many had it */
void lines_lower(struct thunk *t);   /* up to 3.9; GIL: undoes t->raised. May run audit hooks */
void lines_code(const void *pycode); /* 3.12+: arms the code's LINE events */
bool lines_far(const void *pycode); /* 3.12+: a line of it outside of traced calls; true: switch it off */
void line_record(struct thread *th, struct code *code, uint32_t line, unsigned depth);
bool lines_busy_news(void); /* since the last time: a thread was skipped for another tool's trace function */

/* ---- wire.c ------------------------------------------------------------------ */

void wire_init(int in_fd, int out_fd); /* one socket, or two pipes */
bool wire_closed(void); /* the launcher's end is gone */
int wire_frame(unsigned type, unsigned count, const void *a, size_t alen, const void *b, size_t blen);
uint64_t wire_sent(void); /* bytes, since wire_init */
/* Sends until all is, or nothing was taken for wait_ms (or all in all for too long). */
int wire_flush(unsigned wait_ms); /* 1: all sent; 0: some remain; negative: the other end is gone */
bool wire_room(size_t len);
int wire_wait(unsigned timeout_ms); /* polls the socket and the wake pipe */
int wire_receive(unsigned *ret_type, const void **ret_payload, size_t *ret_len); /* 1 a frame, 0 none yet, negative gone */
void wire_note(unsigned code, const char *text);
void drain_give_up(void); /* after the unhook: what rings still hold becomes lost */
bool drain(void); /* sends what rings hold; false when the socket is full */

/* ---- held.c ------------------------------------------------------------------ */

/* Moves a descriptor up and notes it in the boot block; returns it, or fd if negative. */
int held_take(enum mp_held_slot slot, int fd);
int held_drop(enum mp_held_slot slot, int fd); /* closes it, if it is still ours, and strikes it out; -1 */
/* Whether it is still ours; if not, it never is again, and mp_control_block.cut says so.
 * One fstat; hooks may call it. */
bool held_ours(enum mp_held_slot slot);
bool held_all(void); /* the same for each that there is */
void held_close_copies(struct mp_boot *b); /* in a forked child: those that are still the parent's */

/* ---- copies.c: what a fork copied of agents elsewhere ---------------------------- */

void copies_find(void);
void copies_close(void); /* their descriptors */
void copies_forget(bool hooks_gone); /* GIL, after hook_cure: their Python objects */
void copies_release(void); /* without the GIL: their libraries and regions; fills residue */

/* ---- memory.c ---------------------------------------------------------------- */

/* Zeroed memory of our own, page-wise, 64-byte aligned, not inherited by forks;
 * NULL when the kernel refuses. populate: no page fault later. */
void *mem_map(size_t len, bool populate);
void mem_unmap(void *p);
void *pool_alloc(size_t len); /* never freed singly; hooks only */
void mem_release(void); /* everything */
void mem_touch_image(void); /* before any hook is installed */
void mem_name(void *p, size_t len, const char *name); /* for /proc/PID/maps, best effort */

/* ---- governor.c ----------------------------------------------------------------- */

/* What is in force now: what was asked for, or less (--max-overhead). Written by the
 * agent thread, read by hooks at any time: each word is right by itself. */
struct governor {
    uint32_t stage;       /* enum mp_stage */
    uint32_t depth;       /* traced depth, 1 .. opt.depth */
    uint32_t sample_log2; /* one call in 2^n is measured, with all below it; 0: every call */
    uint32_t quiet;       /* 1: nothing is traced */
    uint32_t rollup_ppm;  /* budget of smaps_rollup */
};

/* ---- the state ---------------------------------------------------------------- */

struct agent {
    struct mp_boot *boot;
    const uint64_t *sym;
    struct layout layout; /* of this interpreter */
    volatile uint32_t *armed; /* in a page that a fork wipes: 0 makes hooks inert */
    uint32_t tid_offset;
    uint32_t stack_offset; /* of stackblock, stackblock_size in struct pthread; 0: not known */
    int32_t agent_tid;
    int32_t pid;
    unsigned minor; /* 3.minor */

    struct mp_options opt;
    struct governor gov;
    bool roots; /* --root given */
    bool lines;
    bool no_quiet; /* depth must be looked at on every call: roots, greenlets */
    bool greenlets;
    bool chained; /* another eval-frame function is called after ours */

    void *interp;
    void *main_tstate;
    void *str_name; /* "__name__" */

    /* hooks */
    struct thread *cur; /* the thread that ran a hook last */
    struct thread *thread[MP_THREADS_MAX];
    uint32_t nthread; /* slots ever used; release-stored */
    uint32_t next_thread_id; /* also: threads seen */
    uint32_t free_slots; /* THREAD_FREE ones; atomic */
    struct code *codes_head; /* first known code */
    struct code *codes_last;
    uint32_t ncode;
    int64_t self_pages;  /* resident pages that we added after the start */
    uint64_t events;     /* slow-path hook entries */
    uint64_t edges;      /* metered edges */
    uint64_t cold;       /* of which this many came MP_COLD_NS after the thread's last one */
    uint32_t moves;      /* counts readings of statm that had changed without a fault of the thread's */
    uint64_t skipped;    /* calls that the governor's draw left out */
    uint64_t faded;      /* 3.12+: DISABLE answers */
    uint64_t fading;     /* 3.12+: events that count towards one, among the events */
    uint64_t raises;     /* 3.12+: events of exceptions, throw and unwind, among the events */
    uint32_t force;      /* counts changes of g.gov that threads have to follow; FORCE_EPOCH counts
                            pauses: tracked calls of another epoch are void */
    uint32_t settled;    /* 3.12+: counts bases that settled lower */
    uint32_t tick;       /* seconds, coarse; the agent writes */
    uint32_t round;      /* counts monitor_rearm */
    uint32_t ensuring;   /* 1 while the agent has a thread state of its own, or is about to get one */
    bool resting;        /* 3.11: the hook is out of its slot for a while */
    uint64_t rests, rest_ns; /* how often; how long in all with other threads about, whose calls then are not seen */
    uint64_t round_ns;   /* time until functions that were switched off are looked at again; 0: none is */
    uint64_t line_events;
    uint64_t records, filtered, rollup_ns;
    uint64_t lost_threads, lost_depth;
    uint64_t last_uss, last_peak;

    /* costs, from the selftest */
    uint64_t cost_edge_ns;  /* clock and getrusage; from then on as timed in hooks (meter_timed) */
    uint64_t edge_ns;       /* sum of that over all edges */
    uint32_t timed_left;    /* edges to the next one that is timed */
    uint64_t cost_statm_ns; /* likewise */
    uint64_t statm_ns;

    /* agent */
    int wake_fd;
    volatile uint32_t sleeping;
    struct mp_failed fail;
    struct mp_slots slots_before, slots_after;
    uint32_t hook; /* enum mp_hook */
    bool installed;
};
#define FORCE_EPOCH(force) ((force) >> 16)
extern struct agent g;
extern struct mp_control mp_control_block;

static inline int32_t tid_now(void)
{
    int32_t tid;

    __asm__("movl %%fs:(%1), %0" : "=r"(tid) : "r"((uint64_t)g.tid_offset));
    return tid;
}
static inline const void *tcb_now(void)
{
    const void *tcb;

    __asm__("movq %%fs:0, %0" : "=r"(tcb));
    return tcb;
}

/* The calling thread, NULL when it has no slot (the agent itself, no room). */
static inline struct thread *thread_current(void)
{
    int32_t tid = tid_now();
    struct thread *th = g.cur;

    if (likely(th && th->tid == tid))
        return th;
    return thread_find(tid);
}

static inline void thread_touch(struct thread *th, const void *at)
{
    size_t page = ((uintptr_t)at >> 12) - ((uintptr_t)th >> 12);
    uint64_t *word = &th->touched[page / 64], bit = 1ull << page % 64;

    if (likely(*word & bit))
        return;
    *word |= bit;
    th->self_faults++;
    g.self_pages++;
}

int mp_agent_main(struct mp_boot *boot) __attribute__((visibility("default")));
int fail_set(int code, int err, const char *what, const char *detail); /* returns -code */

#endif
