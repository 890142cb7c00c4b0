/* Memory and time at the edges of traced calls.
 *
 * rss      /proc/self/statm through a kept fd (0.5-0.9 us, and as much again for what
 *          it pushes out of the caches), where the thread has faulted or its last
 *          reading is too old; see rss_fresh, statm_sync
 * own      minor faults of this thread, getrusage(RUSAGE_THREAD); the same call
 *          gives ru_maxrss of the process (kernel/sys.c getrusage: out_thread)
 * uss...   /proc/self/smaps_rollup, whose cost grows with the process, under a
 *          budget: after a reading that took t the next one is allowed after
 *          t / share. Its time is taken out of the durations it falls into.
 * Pages that the agent itself added are subtracted from both.
 * Used by hooks under the GIL, and by the agent before any hook is installed. */
#include "agent/agent.h"

#define STATM_BUF 96
#define ROLLUP_BUF 4096
#define RSS_JUMP_PAGES 256        /* a change that deserves a rollup: 1 MiB */
#define ROLLUP_TIMER_NS 1000000000ull
#define ROLLUP_LONG_ENOUGH 3u     /* in a row: once may be a wait for a CPU */
#define SELFTEST_PAGES 20
#define SELFTEST_FAR_PAGES 80     /* more than a thread keeps to itself: finds the error's size */
#define HUGE_JUMP_PAGES 256       /* by which a huge page's statm is off at least */
#define SELFTEST_TRIES 4          /* other threads' memory moves meanwhile */
#define SELFTEST_ROUNDS 16
#define SELFTEST_BATCHES 4

static int statm_fd = -1, rollup_fd = -1;
static uint64_t rollup_next, rollup_last; /* clock: allowed again; last read */
static int64_t rollup_rss;                /* pages at that time */
static char rollup_buf[ROLLUP_BUF];
static uint32_t rollup_long; /* readings in a row that took longer than MP_ROLLUP_NS_MAX; ROLLUP_LONG_ENOUGH: no more */
static bool rollup_told;

/* Up to 6.1 a thread counts its own faults and adds them to the process's counters after
 * TASK_RSS_EVENTS_THRESH (64) of them, so that statm is as much behind. Whatever walks a
 * page table to give pages back adds them at once, were there none to give back
 * (mm/memory.c, add_mm_rss_vec): MADV_DONTNEED on a page of ours makes the thread's own
 * faults count. The self-test finds out whether that is needed, and whether it helps.
 * Other threads' faults stay behind. */
static bool statm_sync;
static char sync_page[MP_PAGE] __attribute__((aligned(MP_PAGE)));

int meter_init(void)
{
    statm_fd = held_take(MP_HELD_STATM, sys_open_read("/proc/self/statm"));
    if (statm_fd < 0)
        return statm_fd;
    if (!(g.opt.flags & MP_OPT_NO_ROLLUP))
        rollup_fd = held_take(MP_HELD_ROLLUP, sys_open_read("/proc/self/smaps_rollup"));
    rollup_next = rollup_last = 0;
    rollup_long = 0;
    rollup_told = false;
    return 0;
}

void meter_release(void)
{
    statm_fd = held_drop(MP_HELD_STATM, statm_fd);
    rollup_fd = held_drop(MP_HELD_ROLLUP, rollup_fd);
}

uint64_t clock_ns(int clock)
{
    struct sys_timespec ts = { 0, 0 };

    ((int (*)(int, struct sys_timespec *))(uintptr_t)g.boot->fn_clock_gettime)(clock, &ts);
    return (uint64_t)ts.sec * 1000000000ull + (uint64_t)ts.nsec;
}

/* "size resident ...": the second number, in pages. Anything else comes from a file of
 * the target's under our number (held.c) and is no reading. */
int64_t meter_rss(void)
{
    char buf[STATM_BUF];
    const char *p = buf, *end, *second;
    int64_t pages;
    long n;

    if (unlikely(statm_sync))
        sys_madvise(sync_page, sizeof(sync_page), MADV_DONTNEED);
    n = sys_pread(statm_fd, buf, sizeof(buf), 0);
    if (n <= 0)
        return -1;
    end = buf + n;
    parse_dec(&p, end);
    if (p == buf || p >= end || *p++ != ' ')
        return -1;
    second = p;
    pages = (int64_t)parse_dec(&p, end);
    return p > second && p < end && *p == ' ' ? pages : -1;
}

/* Whether the thread's last reading of statm still stands: it has faulted no page
 * since, and the reading is young. What others did, or what was given back, in so short
 * a time is read at a later edge. How short: MP_RSS_FRESH_NS; where nothing of that kind
 * has been seen while the function was read MP_RSS_CALM_AFTER times, MP_RSS_CALM_NS. */
static bool rss_fresh(const struct thread *th, const struct code *code, uint64_t raw_faults, uint64_t now)
{
    uint64_t age = now - th->rss_time;

    if (th->rss_faults != raw_faults)
        return false;
    if (likely(age < MP_RSS_FRESH_NS))
        return true;
    return age < MP_RSS_CALM_NS && code && code->calm >= MP_RSS_CALM_AFTER && code->calm_since == g.moves;
}

static void rss_read(struct thread *th, struct code *code, uint64_t raw_faults, uint64_t now)
{
    int64_t pages = meter_rss();

    /* faults of its own explain more, never less */
    if (pages < th->rss_pages || (th->rss_time && pages > th->rss_pages && th->rss_faults == raw_faults))
        g.moves++;
    if (code && code->calm_since != g.moves) {
        code->calm_since = g.moves;
        code->calm = 0;
    }
    if (code)
        code->calm++;
    th->rss_pages = pages;
    th->rss_time = now;
    th->rss_faults = raw_faults;
    g.statm_ns += g.cost_statm_ns;
}

/* Fills *r but for its time. `now` is a clock that was read just before or after.
 * Returns whether statm was read. */
static bool probe_rss(struct thread *th, struct code *code, struct reading *r, uint64_t raw_faults, uint64_t now)
{
    bool read = !r->has_own || !rss_fresh(th, code, raw_faults, now);

    if (read)
        rss_read(th, code, raw_faults, now);
    r->rss = th->rss_pages;
    r->has_rss = r->rss >= 0;
    /* ru_maxrss is brought up to date lazily: a peak is never below what is there now. */
    if (r->has_own && r->has_rss && (uint64_t)r->rss * 4096 > r->peak)
        r->peak = (uint64_t)r->rss * 4096;
    g.last_peak = r->peak;
    r->rss -= g.self_pages;
    g.edges++;
    g.edge_ns += g.cost_edge_ns;
    g.cold += now - th->edge_time >= MP_COLD_NS;
    th->edge_time = now;
    return read;
}

static uint64_t probe_own(struct thread *th, struct reading *r)
{
    struct sys_rusage ru;

    r->has_own = sys_rusage_thread(&ru) == 0;
    r->faults = r->has_own ? (uint64_t)ru.minflt - th->self_faults : 0;
    r->peak = r->has_own ? (uint64_t)ru.maxrss * 1024 : 0;
    /* Faults that go back are another task's: a vfork child runs on our memory, the
     * armed word included, and with our TCB. */
    r->foreign = r->has_own && unlikely((uint64_t)ru.minflt < th->rss_faults || !th->rss_time) && sys_getpid() != g.pid;
    return r->has_own ? (uint64_t)ru.minflt : 0;
}

bool meter_entry(struct thread *th, struct code *code, struct reading *r)
{
    uint64_t raw = probe_own(th, r);
    bool read;

    if (unlikely(r->foreign))
        return false;
    r->time = clock_ns(CLOCK_MONOTONIC);
    read = probe_rss(th, code, r, raw, r->time);
    if (read)
        r->time = clock_ns(CLOCK_MONOTONIC);
    return read;
}

bool meter_exit(struct thread *th, struct code *code, struct reading *r)
{
    uint64_t raw;

    r->time = clock_ns(CLOCK_MONOTONIC);
    raw = probe_own(th, r);
    return probe_rss(th, code, r, raw, r->time);
}

/* An edge in the midst of a program finds cold caches, and costs more than the self-test's
 * loops say. */
#define TIMED_EVERY 61u /* odd: entries and exits take turns */
#define TIMED_WEIGHT 16
#define TIMED_MOST 4u   /* times the price: more is the CPU given to somebody else meanwhile */

bool meter_time_this(void)
{
    if (likely(g.timed_left--))
        return false;
    g.timed_left = TIMED_EVERY - 1;
    return true;
}

static void price(uint64_t *cost, uint64_t ns)
{
    uint64_t most = TIMED_MOST * *cost;

    ns = ns < most ? ns : most;
    *cost = (*cost * (TIMED_WEIGHT - 1) + ns + TIMED_WEIGHT / 2) / TIMED_WEIGHT;
}

void meter_timed(uint64_t ns, bool statm)
{
    if (statm)
        price(&g.cost_statm_ns, ns > g.cost_edge_ns ? ns - g.cost_edge_ns : 0);
    else
        price(&g.cost_edge_ns, ns);
}

/* The price of a reading may be given up like any other: with --max-overhead 0 nothing is. */
static bool rollup_too_long(void)
{
    return rollup_long >= ROLLUP_LONG_ENOUGH && g.opt.max_overhead_ppm;
}

bool rollup_news(void)
{
    bool news = rollup_too_long() && !rollup_told;

    rollup_told = rollup_told || news;
    return news;
}

bool rollup_due(uint64_t now)
{
    return rollup_fd >= 0 && !rollup_too_long() && g.gov.rollup_ppm && now >= rollup_next;
}

bool rollup_wanted(uint64_t now, int64_t rss, const struct code *code)
{
    int64_t change = rss - rollup_rss;

    if (!rollup_due(now))
        return false;
    return !(code->flags & CODE_USS_SEEN) || change >= RSS_JUMP_PAGES || -change >= RSS_JUMP_PAGES ||
           now - rollup_last >= ROLLUP_TIMER_NS;
}

/* The first line ends in "[rollup]" (fs/proc/task_mmu.c, show_smaps_rollup). */
static bool is_rollup(const char *p, const char *end)
{
    static const char name[] = "[rollup]\n";
    const size_t len = sizeof(name) - 1;
    const char *nl = p;

    while (nl < end && *nl != '\n')
        nl++;
    return nl < end && (size_t)(nl + 1 - p) >= len && !memcmp(nl + 1 - len, name, len);
}

/* Lines "Name:   123 kB". */
static void rollup_parse(const char *p, const char *end, struct rollup *ret)
{
    static const struct {
        const char *name;
        bool swap;
    } fields[] = { { "Private_Clean:", 0 }, { "Private_Dirty:", 0 }, { "Private_Hugetlb:", 0 }, { "Swap:", 1 } };

    ret->uss = ret->swap = 0;
    while (p < end) {
        for (size_t i = 0; i < 4; i++) {
            size_t n = strlen(fields[i].name);

            if ((size_t)(end - p) > n && !memcmp(p, fields[i].name, n)) {
                p += n;
                while (p < end && *p == ' ')
                    p++;
                *(fields[i].swap ? &ret->swap : &ret->uss) += parse_dec(&p, end) * 1024;
                break;
            }
        }
        while (p < end && *p++ != '\n')
            ;
    }
}

bool meter_rollup(struct thread *th, unsigned times, struct rollup *ret)
{
    uint64_t start = clock_ns(CLOCK_MONOTONIC), cost, now;
    long n;

    if (rollup_fd < 0 || rollup_too_long())
        return false;
    n = sys_pread(rollup_fd, rollup_buf, sizeof(rollup_buf), 0);
    if (n <= 0 || !is_rollup(rollup_buf, rollup_buf + n))
        return false;
    rollup_parse(rollup_buf, rollup_buf + n, ret);
    now = clock_ns(CLOCK_MONOTONIC);
    cost = now - start;
    rollup_long = cost > MP_ROLLUP_NS_MAX ? rollup_long + 1 : 0;
    if (th)
        th->probe_ns += cost;
    g.rollup_ns += cost;
    g.last_uss = ret->uss;
    rollup_last = now;
    rollup_rss = meter_rss() - g.self_pages;
    if (g.gov.rollup_ppm)
        rollup_next = now + times * cost * 1000000 / g.gov.rollup_ppm;
    return true;
}

enum { PROBE_STATM, PROBE_RUSAGE, PROBE_CLOCK, PROBES };

static uint64_t batch_ns(int probe)
{
    uint64_t start = clock_ns(CLOCK_MONOTONIC);
    struct sys_rusage ru;

    for (int i = 0; i < SELFTEST_ROUNDS; i++)
        if (probe == PROBE_STATM)
            meter_rss();
        else if (probe == PROBE_RUSAGE)
            sys_rusage_thread(&ru);
        else
            clock_ns(CLOCK_MONOTONIC);
    return (clock_ns(CLOCK_MONOTONIC) - start) / SELFTEST_ROUNDS;
}

/* The best of a few batches: what a probe costs when nobody else wants the CPU. */
static void measure_costs(struct mp_selftest *t)
{
    uint64_t best[PROBES] = { UINT64_MAX, UINT64_MAX, UINT64_MAX }, start, ns;
    struct rollup roll;

    for (int i = 0; i < SELFTEST_BATCHES; i++)
        for (int p = 0; p < PROBES; p++) {
            ns = batch_ns(p);
            best[p] = ns < best[p] ? ns : best[p];
        }
    t->statm_ns = best[PROBE_STATM];
    t->rusage_ns = best[PROBE_RUSAGE];
    t->clock_ns = best[PROBE_CLOCK];
    if (meter_rss() > MP_ROLLUP_PAGES_MAX)
        rollup_long = ROLLUP_LONG_ENOUGH;
    do {
        start = clock_ns(CLOCK_MONOTONIC);
        if (!meter_rollup(NULL, 1, &roll))
            break;
        t->rollup_ns = clock_ns(CLOCK_MONOTONIC) - start;
        t->flags |= MP_SELF_ROLLUP;
    } while (rollup_long && g.opt.max_overhead_ppm);
    if (rollup_too_long() && rollup_fd >= 0) {
        t->flags = (t->flags & ~MP_SELF_ROLLUP) | MP_SELF_ROLLUP_LONG;
        rollup_told = true;
    }
    rollup_next = rollup_last = 0; /* this reading is not charged */
    g.rollup_ns = 0;
    g.cost_edge_ns = t->rusage_ns + t->clock_ns;
    g.cost_statm_ns = t->statm_ns + t->clock_ns;
}

static int64_t magnitude(int64_t n)
{
    return n < 0 ? -n : n;
}

/* Touches fresh pages one by one; how far statm's change is from their number, at most.
 * A page that brings hundreds is a huge one. */
static int64_t statm_off(unsigned pages, uint32_t *flags)
{
    size_t len = pages * MP_PAGE;
    long p = sys_mmap(len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS);
    int64_t first, off, far = 0;

    if (p < 0 && p > -4096)
        return 0;
    first = meter_rss();
    for (unsigned i = 0; i < pages; i++) {
        *((volatile char *)p + i * MP_PAGE) = 1;
        off = meter_rss() - first - (i + 1);
        far = magnitude(off) > magnitude(far) ? off : far;
    }
    *flags |= far > HUGE_JUMP_PAGES ? MP_SELF_THP : 0;
    sys_munmap((void *)p, len);
    return far;
}

/* The best of a few tries: what other threads do adds to the error. */
static int32_t statm_error(unsigned pages, uint32_t *flags)
{
    int64_t best = statm_off(pages, flags), off;

    for (int i = 1; best && i < SELFTEST_TRIES; i++) {
        off = statm_off(pages, flags);
        best = magnitude(off) < magnitude(best) ? off : best;
    }
    return (int32_t)best;
}

/* What statm is worth, and whether our page makes it better. */
static void try_statm(struct mp_selftest *t)
{
    statm_sync = false;
    t->statm_error = statm_error(SELFTEST_PAGES, &t->flags);
    if (!t->statm_error)
        return;
    *(volatile char *)sync_page = 1; /* there is a page table from now on */
    statm_sync = t->statm_error < 0; /* more than was touched is no lateness */
    if (statm_sync && statm_error(SELFTEST_PAGES, &t->flags) == 0) {
        t->statm_error = 0;
        t->flags |= MP_SELF_SYNC;
        return;
    }
    statm_sync = false;
    t->pages_touched = SELFTEST_FAR_PAGES;
    t->statm_error = statm_error(SELFTEST_FAR_PAGES, &t->flags);
}

/* What the probes say of pages that we touch ourselves, and what they cost. */
void meter_selftest(struct mp_selftest *t)
{
    size_t len = SELFTEST_PAGES * MP_PAGE;
    long p;
    struct sys_rusage before, after;

    memset(t, 0, sizeof(*t));
    t->page_size = MP_PAGE;
    t->pages_touched = SELFTEST_PAGES;
    t->flags |= meter_rss() >= 0 ? MP_SELF_STATM : 0;
    if (t->flags & MP_SELF_STATM)
        try_statm(t);
    measure_costs(t);
    p = sys_mmap(len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS);
    if (p < 0 && p > -4096)
        return;
    sys_rusage_thread(&before);
    for (size_t i = 0; i < len; i += MP_PAGE)
        *((volatile char *)p + i) = 1;
    sys_rusage_thread(&after);
    t->minflt_error = (int32_t)(after.minflt - before.minflt - SELFTEST_PAGES);
    sys_munmap((void *)p, len);
}
