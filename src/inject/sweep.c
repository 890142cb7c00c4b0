/* Sweeping: inert leftovers of ours are unmapped by a thread of the target, one
 * munmap each, with the same care as in an injection.
 *
 * Only what nothing can reach is touched, and that is looked up, not assumed:
 *   a region   its magic; no agent mapped any more; its threads gone; no thread
 *              waits inside it
 *   a thunk    its magic; inert and empty by its own account; no word of the
 *              target's writable memory is its entry or its trace function
 * What can't be judged stays: an inert page costs nothing, a wrong munmap all. And it is
 * looked up again when the thread stands: the target did not wait for us until then. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>

#include "base/clock.h"
#include "base/fault.h"
#include "inject/borrow.h"
#include "inject/gather.h"
#include "inject/ours.h"
#include "inject/suspects.h"
#include "target/mem.h"
#include "target/proc.h"
#include "target/stack.h"
#include "thunk_page.h"

#define SWEEP_MAX 32                  /* mappings in one sweep */
#define SWEEP_LOOKS 3                 /* at the threads, SWEEP_LOOK_NS apart */
#define SWEEP_LOOKS_MAX 50            /* while threads are there that may be ours */
#define SWEEP_LOOK_NS 20000000
#define SWEEP_SCAN_MAX (4ull << 30)   /* bytes of writable memory searched for pointers */
#define SWEEP_CHUNK (1u << 20)
#define SWEEP_STACKS 1024             /* stacks that are known; others are searched like any memory */
#define SWEEP_RED_ZONE 128            /* bytes below a stack pointer that are in use */
#define SWEEP_CALL_NS 1000000000ull
#define SWEEP_BORROW_MS 2000

struct sweep_range {
    raddr_t lo, hi;
    const char *what;
    bool is_thunk;
    bool unused; /* a region in which nothing has run: nothing that points into it can be followed */
    bool in_use;
    union { /* as it was found */
        struct thunk thunk;
        struct mp_boot boot;
    } was;
};

/* Of a thread that waits. Below its stack pointer lie only words of calls that have returned. */
struct sweep_stack {
    raddr_t lo, sp, hi;
};

enum sweep_part { SWEEP_DATA, SWEEP_STACK, SWEEP_DEAD };

struct sweep {
    pid_t pid, live;
    FILE *log;
    struct maps maps;
    struct sweep_range range[SWEEP_MAX];
    size_t count;
    raddr_t sp[SWEEP_STACKS]; /* stack pointers of threads that wait */
    size_t sp_count;
    struct sweep_stack stack[SWEEP_STACKS];
    size_t stack_count;
};

/* Where a range keeps its account of itself, and how long that is. */
static raddr_t sweep_account_at(const struct sweep_range *r)
{
    return r->lo + (r->is_thunk ? MP_PAGE : MP_BOOT_OFF);
}

static size_t sweep_account_size(const struct sweep_range *r)
{
    return r->is_thunk ? sizeof r->was.thunk : sizeof r->was.boot;
}

/* Reads a range's account. The next free range, to be kept by raising the count, or NULL. */
static struct sweep_range *sweep_read(struct sweep *s, raddr_t lo, size_t len, bool is_thunk)
{
    if (s->count == SWEEP_MAX)
        return NULL;
    struct sweep_range *r = &s->range[s->count];
    *r = (struct sweep_range){.lo = lo, .hi = lo + len, .what = is_thunk ? "thunk" : "boot region", .is_thunk = is_thunk};
    return mem_read(s->live, sweep_account_at(r), &r->was, sweep_account_size(r)) == 0 ? r : NULL;
}

static bool sweep_agent_mapped(const struct sweep *s)
{
    for (size_t i = 0; i < s->maps.count; i++)
        if (!strncmp(s->maps.entry[i].name, "/memfd:" MP_AGENT_NAME, sizeof "/memfd:" MP_AGENT_NAME - 1))
            return true;
    return false;
}

/* Whether a thread with this id, as the target numbers it, exists. */
static bool sweep_tid_lives(const struct sweep *s, int32_t ns_tid)
{
    pid_t tid;
    if (ns_tid <= 0)
        return false;
    return proc_task_of_ns(s->pid, ns_tid, &tid) < 0 || tid > 0;
}

/* Whether the region is as the launcher's mmap left it: its first instruction would make
 * part of it writable. */
static bool sweep_unused(const struct sweep *s, raddr_t lo, raddr_t hi)
{
    for (size_t i = 0; i < s->maps.count; i++)
        if (s->maps.entry[i].lo < hi && s->maps.entry[i].hi > lo && s->maps.entry[i].write)
            return false;
    return true;
}

static void sweep_find_regions(struct sweep *s, const struct ours *o)
{
    for (size_t i = 0; i < o->region_count; i++) {
        struct sweep_range *r = sweep_read(s, o->region[i], MP_REGION_SIZE, false);
        if (!r)
            continue;
        const struct mp_boot *b = &r->was.boot;
        /* One without a boot block was never written: its launcher died at once. */
        if (b->magic && (b->magic != MP_BOOT_MAGIC || b->region_base != r->lo))
            continue;
        if (sweep_tid_lives(s, b->raw_tid) || sweep_tid_lives(s, b->worker_tid))
            continue;
        r->unused = sweep_unused(s, r->lo, r->hi);
        s->count++;
    }
}

static void sweep_find_thunks(struct sweep *s, const struct ours *o)
{
    for (size_t i = 0; i < o->thunk_count; i++) {
        struct sweep_range *r = sweep_read(s, o->thunk[i], OURS_THUNK_SIZE, true);
        const struct thunk *t = r ? &r->was.thunk : NULL;
        if (t && !t->enter && !t->exit && !t->trace && !t->inflight)
            s->count++;
    }
}

static struct sweep_range *sweep_at(struct sweep *s, raddr_t at)
{
    for (size_t i = 0; i < s->count; i++)
        if (at >= s->range[i].lo && at < s->range[i].hi)
            return &s->range[i];
    return NULL;
}

/* While somebody traces a thread, it may be for the sake of a region that is unused so far. */
static void sweep_mark_traced(struct sweep *s, pid_t tid)
{
    struct proc_status st;
    if (proc_status_read(&st, s->pid, tid) < 0 || st.tracer <= 0)
        return;
    for (size_t i = 0; i < s->count; i++)
        s->range[i].in_use |= s->range[i].unused;
}

/* Marks ranges in which a thread waits or has its stack. A reaper sleeps nearly
 * all of its short life, so a few looks find it. */
static void sweep_mark_threads(struct sweep *s)
{
    bool unused = false;
    for (size_t i = 0; i < s->count; i++)
        unused |= s->range[i].unused;
    pid_t *tids;
    size_t n;
    if (proc_tasks(s->pid, &tids, &n) < 0)
        return;
    s->sp_count = 0;
    for (size_t i = 0; i < n; i++) {
        struct proc_syscall sc;
        if (proc_syscall_read(&sc, s->pid, tids[i]) < 0)
            continue;
        if (unused)
            sweep_mark_traced(s, tids[i]);
        if (sc.running)
            continue;
        if (s->sp_count < SWEEP_STACKS)
            s->sp[s->sp_count++] = sc.sp;
        struct sweep_range *r = sweep_at(s, sc.pc);
        struct sweep_range *q = sweep_at(s, sc.sp);
        if (r)
            r->in_use = true;
        if (q)
            q->in_use = true;
    }
    free(tids);
}

/* Whether a word that points into r may ever be followed. Nothing is in flight in a
 * thunk that is looked at, so no stack, saved or live, leads back into it, whatever
 * stale return address or spilled pointer a frame still holds (the slot was read and
 * called in one go under the GIL). What could still be called is an entry that is
 * kept elsewhere: by another eval-frame user, say. A trace function is not called in one go
 * (payload/agent/lines.c): where it may have been kept, a stack may hold it, too. A region
 * that a launcher died over before anything ran in it is still in the registers that the
 * kernel saved. */
static bool sweep_counts(const struct sweep_range *r, raddr_t word, bool stack)
{
    const struct thunk *t = &r->was.thunk;
    if (!r->is_thunk)
        return !r->unused;
    if (word == t->trace_entry)
        return !stack || t->flags & THUNK_TRACED;
    return !stack && word == t->entry;
}

/* Marks ranges that a word of len bytes at buf points into. */
static void sweep_mark_words(struct sweep *s, raddr_t at, const uint64_t *buf, size_t len, bool stack)
{
    raddr_t lo = ~0ull, hi = 0;
    for (size_t i = 0; i < s->count; i++) {
        lo = s->range[i].lo < lo ? s->range[i].lo : lo;
        hi = s->range[i].hi > hi ? s->range[i].hi : hi;
    }
    for (size_t i = 0; i < len / 8; i++) {
        if (buf[i] < lo || buf[i] >= hi)
            continue;
        struct sweep_range *r = sweep_at(s, buf[i]), *self = sweep_at(s, at + i * 8);
        if (r && r != self && sweep_counts(r, buf[i], stack))
            r->in_use = true;
    }
}

/* Of a stack that is not where we think it is, words would be passed over: so only what
 * the kernel calls the first thread's and what libc describes as another's is one. */
static void sweep_find_stacks(struct sweep *s)
{
    s->stack_count = 0;
    for (size_t i = 0; i < s->sp_count; i++) {
        const struct maps_entry *e = maps_at(&s->maps, s->sp[i]);
        struct stack found = {0};
        if (!e)
            continue;
        if (!strcmp(e->name, "[stack]"))
            found = (struct stack){e->lo, e->hi};
        else if (!stack_find(s->live, s->sp[i], e->hi, &found))
            continue;
        raddr_t lo = found.lo > e->lo ? found.lo : e->lo, sp = (s->sp[i] - SWEEP_RED_ZONE) & ~(raddr_t)7;
        s->stack[s->stack_count++] = (struct sweep_stack){lo, sp < lo ? lo : sp, found.hi};
    }
}

/* What begins at `at` and where it ends, at hi at the latest. */
static raddr_t sweep_part(const struct sweep *s, raddr_t at, raddr_t hi, enum sweep_part *ret)
{
    bool live = false, dead = false;
    for (size_t i = 0; i < s->stack_count; i++) {
        const struct sweep_stack *k = &s->stack[i];
        if (at >= k->hi)
            continue;
        live |= at >= k->sp;
        dead |= at >= k->lo && at < k->sp;
        raddr_t end = at < k->lo ? k->lo : at < k->sp ? k->sp : k->hi;
        hi = end < hi ? end : hi;
    }
    *ret = live ? SWEEP_STACK : dead ? SWEEP_DEAD : SWEEP_DATA;
    return hi;
}

/* A page that can't be read ends a reading: one behind a file's end, a guard page. What
 * is behind it may be read again. */
static raddr_t sweep_behind_hole(raddr_t at, ssize_t got)
{
    return (at + (got > 0 ? (raddr_t)got : 0) + MP_PAGE) & ~(raddr_t)(MP_PAGE - 1);
}

/* Searches one mapping. false: it is too much, or can't be known. What can't be read is not
 * followed by the target either. */
static bool sweep_mark_mapping(struct sweep *s, const struct maps_entry *e, uint64_t *buf, uint64_t *total)
{
    bool known = true;
    for (raddr_t at = e->lo; known && at < e->hi;) {
        enum sweep_part part;
        raddr_t end = sweep_part(s, at, e->hi, &part);
        if (part == SWEEP_DEAD) {
            at = end;
            continue;
        }
        size_t len = end - at < SWEEP_CHUNK ? (size_t)(end - at) : SWEEP_CHUNK;
        ssize_t n = mem_read_some(s->live, at, buf, len);
        if (n > 0)
            sweep_mark_words(s, at, buf, (size_t)n, part == SWEEP_STACK);
        *total += len;
        known = *total <= SWEEP_SCAN_MAX && (n > 0 || n == -EFAULT || n == -EIO);
        at = n == (ssize_t)len ? at + len : sweep_behind_hole(at, n);
    }
    return known;
}

/* Looks for pointers into the ranges in all private writable memory, from below or from
 * above. Whatever is too much to search is taken for a pointer to everything that one counts for. */
static void sweep_mark_pointers(struct sweep *s, bool down)
{
    uint64_t *buf = malloc(SWEEP_CHUNK), total = 0;
    bool known = buf && !s->maps.skipped;
    for (size_t i = 0; known && i < s->maps.count; i++) {
        const struct maps_entry *e = &s->maps.entry[down ? s->maps.count - 1 - i : i];
        if (e->write && e->read && !e->shared)
            known = sweep_mark_mapping(s, e, buf, &total);
    }
    free(buf);
    for (size_t i = 0; !known && i < s->count; i++)
        s->range[i].in_use |= !s->range[i].unused;
}

/* Who has kept a trace function may be about to put it back, from memory that is not
 * searched yet into memory that was. */
static bool sweep_moves(const struct sweep *s)
{
    for (size_t i = 0; i < s->count; i++)
        if (s->range[i].is_thunk && !s->range[i].in_use && s->range[i].was.thunk.flags & (THUNK_TRACED | THUNK_COPIED))
            return true;
    return false;
}

/* Threads that may be a region's, by whether anything has run in that: of a used one, of an unused one. */
struct sweep_watch {
    struct suspects of[2];
};

static bool sweep_suspected(const struct sweep_watch *w, const struct sweep_range *r)
{
    return !r->is_thunk && w->of[r->unused].calm < SWEEP_LOOKS;
}

/* One look, for the regions of that kind. Whether it is to be gone on with. */
static bool sweep_look_at_threads(const struct sweep *s, struct sweep_watch *w, bool unused)
{
    size_t i = 0;
    while (i < s->count && (s->range[i].is_thunk || s->range[i].unused != unused))
        i++;
    if (i == s->count)
        return false;
    suspects_look(&w->of[unused], s->pid);
    return sweep_suspected(w, &s->range[i]);
}

/* Looks at the threads until none is left that may be ours, or for long enough. */
static void sweep_mark_regions(struct sweep *s)
{
    struct sweep_watch w = {.of[true].unused = true};
    bool more = true;
    for (int i = 0; i < SWEEP_LOOKS || (more && i < SWEEP_LOOKS_MAX); i++) {
        struct timespec ts = {0, SWEEP_LOOK_NS};
        sweep_mark_threads(s);
        more = sweep_look_at_threads(s, &w, false);
        more |= sweep_look_at_threads(s, &w, true);
        nanosleep(&ts, NULL);
    }
    for (size_t i = 0; i < s->count; i++) {
        struct sweep_range *r = &s->range[i];
        if (!sweep_suspected(&w, r))
            continue;
        r->in_use = true;
        if (s->log && w.of[r->unused].count)
            fprintf(s->log, "sweep: thread %d runs with every signal blocked, as ours do\n", (int)w.of[r->unused].tid[0]);
    }
}

/* What has been mapped while threads were looked at is searched, too. */
static void sweep_map_anew(struct sweep *s)
{
    struct maps now = {0};
    if (maps_read(&now, s->live) < 0)
        return;
    maps_release(&s->maps);
    s->maps = now;
}

/* Finds what may go. The number left to remove. */
static size_t sweep_find(struct sweep *s)
{
    struct ours o;
    ours_find(&o, s->live, &s->maps);
    if (!sweep_agent_mapped(s))
        sweep_find_regions(s, &o);
    sweep_find_thunks(s, &o);
    if (s->count) {
        sweep_mark_regions(s);
        sweep_map_anew(s);
        sweep_find_stacks(s);
        sweep_mark_pointers(s, false);
        if (sweep_moves(s))
            sweep_mark_pointers(s, true);
    }
    size_t kept = 0;
    for (size_t i = 0; i < s->count; i++) {
        if (s->log)
            fprintf(s->log, "sweep: %s at %#llx %s\n", s->range[i].what, (unsigned long long)s->range[i].lo,
                    s->range[i].in_use ? "may still be reached; it stays" : "is unreachable");
        if (!s->range[i].in_use)
            s->range[kept++] = s->range[i];
    }
    return s->count = kept;
}

/* Whether a range is what it was when it was found: mapped as then, and its account of
 * itself the same, in which any use leaves a trace. */
static bool sweep_as_found(const struct sweep *s, const struct sweep_range *r, const struct maps *now)
{
    struct sweep_range read = *r;
    const struct maps_entry *was = maps_at(&s->maps, r->lo), *is = maps_at(now, r->lo);
    return was && is && was->lo == is->lo && was->hi == is->hi && was->write == is->write && was->exec == is->exec &&
           mem_read(s->live, sweep_account_at(r), &read.was, sweep_account_size(r)) == 0 &&
           !memcmp(&read.was, &r->was, sweep_account_size(r));
}

static int sweep_claim(const struct sweep *s, struct sweep_range *r, uint32_t claimed)
{
    if (!r->is_thunk)
        return 0;
    r->was.thunk.claimed = claimed;
    return mem_write(s->live, sweep_account_at(r) + offsetof(struct thunk, claimed), &claimed, sizeof claimed);
}

/* Looks once more, since what was found idle may be in use again: an agent takes an idle
 * thunk for its own, and one whose launcher sees /proc through another mount is not kept
 * away by our lock. A thunk is claimed first: an agent that is not mapped by then finds the
 * claim (thunk_page.h). */
static void sweep_look_again(struct sweep *s)
{
    struct maps before = {0}, now = {0};
    bool known = maps_read(&before, s->live) == 0;
    for (size_t i = 0; i < s->count; i++) {
        struct sweep_range *r = &s->range[i];
        r->in_use = !known || !sweep_as_found(s, r, &before) || sweep_claim(s, r, 1) < 0;
    }
    known = known && maps_read(&now, s->live) == 0 && !inject_agent_at_work(s->pid, s->live, &now);
    for (size_t i = 0; i < s->count; i++) {
        struct sweep_range *r = &s->range[i];
        if (r->in_use || (known && sweep_as_found(s, r, &now)))
            continue;
        r->in_use = true;
        if (sweep_as_found(s, r, &now))
            (void)!sweep_claim(s, r, 0);
    }
    maps_release(&before);
    maps_release(&now);
}

/* The unmapping itself, on a thread that stands. A count or -errno. */
static int sweep_unmap(struct sweep *s, struct borrow *b)
{
    int removed = 0, ret = remote_begin(&b->remote);
    if (ret == 0)
        sweep_look_again(s);
    for (size_t i = 0; ret == 0 && i < s->count; i++) {
        const uint64_t a[6] = {s->range[i].lo, s->range[i].hi - s->range[i].lo};
        if (s->range[i].in_use)
            continue;
        long value = 0;
        ret = remote_call(&b->remote, SYS_munmap, a, clock_mono_ns() + SWEEP_CALL_NS, &value);
        if (ret == 0)
            ret = (int)value;
        removed += ret == 0;
    }
    int end = borrow_return(b);
    return removed ? removed : ret < 0 ? ret : end;
}

struct sweep_job {
    struct sweep *s;
    struct inject_plan *plan;
    uint64_t pause_ns;
    struct mp_failure *f;
    int ret;
};

static void sweep_job(void *arg)
{
    struct sweep_job *j = arg;
    struct borrow b = {.plan = j->plan, .log = j->s->log, .wake_fd = -1};
    tracee_init(&b.t, 0);
    j->ret = borrow_thread(&b, SWEEP_BORROW_MS, j->f);
    if (j->ret == 0) {
        j->ret = sweep_unmap(j->s, &b);
        j->pause_ns = b.pause_ns;
        if (j->ret < 0)
            j->ret = b.remote.vanished ? borrow_gone(j->plan, j->f)
                                       : mp_fail(j->f, MP_E_INJECT, -j->ret, "munmap in the target failed: %s",
                                                 strerror(-j->ret));
    }
    borrow_release(&b);
}

/* Makes a plan, for the addresses, and does it. */
static int sweep_run(struct sweep *s, uint64_t *ret_pause_ns, struct mp_failure *f)
{
    struct sweep_job j = {.s = s, .f = f};
    int ret = inject_plan_make(&j.plan, s->pid, s->log, f);
    if (ret < 0)
        return ret;
    j.plan->single_arena = false; /* no thread of ours comes that could allocate: a stale word on a stack is no reason to wait for ever */
    (void)FAULT_POINT("sweep", 0); /* where no guard continues us */
    int e = borrow_run(sweep_job, &j);
    inject_plan_free(j.plan);
    if (e != 0)
        return mp_fail(f, MP_E_INTERNAL, e, "can't start a thread");
    *ret_pause_ns = j.pause_ns;
    return j.ret;
}

/* What is ours in pid, and pid as it numbers itself. False when it can't be looked at. */
static bool sweep_look(pid_t pid, struct ours *ret, pid_t *ret_live, pid_t *ret_inner)
{
    struct proc_status st;
    bool lost = true;
    for (int i = 0; i < PROC_LOOKS && lost; i++) {
        struct maps maps;
        *ret_live = proc_live_task(pid);
        if (*ret_live < 0 || proc_status_read(&st, pid, 0) < 0 || maps_read(&maps, *ret_live) < 0)
            return false;
        ours_find(ret, *ret_live, &maps);
        maps_release(&maps);
        lost = proc_task_lost(pid, *ret_live);
    }
    *ret_inner = st.ns_pid ? st.ns_pid : st.pid;
    return true;
}

int inject_idle_thunks(pid_t pid)
{
    struct ours o;
    pid_t live, inner;
    int n = 0;
    if (!sweep_look(pid, &o, &live, &inner))
        return 0;
    for (size_t i = 0; i < o.thunk_count; i++) {
        struct thunk t;
        if (mem_read(live, o.thunk[i] + MP_PAGE, &t, sizeof t) == 0)
            n += !t.enter && !t.exit && !t.trace && (!t.inflight || t.owner_pid != inner);
    }
    return n;
}

int inject_copies(pid_t pid)
{
    struct ours o;
    pid_t live, inner;
    int n = 0;
    if (!sweep_look(pid, &o, &live, &inner))
        return 0;
    for (size_t i = 0; i < o.region_count; i++) {
        struct mp_boot b;
        if (mem_read(live, o.region[i] + MP_BOOT_OFF, &b, sizeof b) == 0 && b.magic == MP_BOOT_MAGIC &&
            b.abi == MP_ABI && b.owner_pid)
            n += b.owner_pid != inner;
    }
    return n;
}

int inject_sweep(pid_t pid, FILE *log, uint64_t *ret_pause_ns, struct mp_failure *f)
{
    struct sweep s = {.pid = pid, .log = log};
    *ret_pause_ns = 0;
    s.live = proc_live_task(pid);
    int r = s.live < 0 ? s.live : maps_read(&s.maps, s.live);
    if (r < 0)
        return gather_refusal(pid, r, f);
    int ret = sweep_find(&s) > 0 ? sweep_run(&s, ret_pause_ns, f) : 0;
    maps_release(&s.maps);
    return ret;
}
