/* The comparison of before and after: what of ours is left in a process, and what
 * else changed meanwhile. A running program changes by itself, so only what bears
 * our marks counts against us; the rest is listed for the reader to judge. */
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/fault.h"
#include "base/utf8.h"
#include "inject/gather.h"
#include "inject/inject.h"
#include "inject/ours.h"
#include "target/maps.h"
#include "target/proc.h"

/* Signals 32 and 33 are glibc's own (SIGCANCEL, SIGSETXID, internal-signals.h): it
 * installs a handler with the first thread that a process makes, and hides both from
 * the program. */
#define LIBC_SIGNALS (3ull << 31)

#define DEPART_NS 100000000ull

struct thread {
    pid_t tid;
    uint64_t blocked; /* signal mask */
};

struct inject_snapshot {
    pid_t pid, live;
    uint64_t starttime;
    struct maps maps;
    struct proc_fd *fds;
    size_t fd_count;
    struct thread *threads; /* by rising tid */
    size_t thread_count;
    uint64_t ignored, caught;
};

/* --- taking ---------------------------------------------------------------- */

static int take_threads(struct inject_snapshot *s)
{
    pid_t *tids;
    size_t i, n;
    int r = proc_tasks(s->pid, &tids, &n);
    if (r < 0)
        return r;
    s->threads = calloc(n ? n : 1, sizeof(*s->threads));
    for (i = 0; s->threads && i < n; i++) {
        struct proc_status st;
        if (proc_status_read(&st, s->pid, tids[i]) < 0 || st.state == 'Z' || st.state == 'X')
            continue;
        s->threads[s->thread_count++] = (struct thread){tids[i], st.sig_blocked};
        s->ignored = st.sig_ignored & ~LIBC_SIGNALS; /* shared by all threads (CLONE_SIGHAND) */
        s->caught = st.sig_caught & ~LIBC_SIGNALS;
    }
    free(tids);
    return s->threads ? 0 : -ENOMEM;
}

static void release(struct inject_snapshot *s)
{
    maps_release(&s->maps);
    proc_fds_free(s->fds, s->fd_count);
    free(s->threads);
}

static int take_once(struct inject_snapshot *s, pid_t pid)
{
    struct proc_stat st;
    int r = proc_stat_read(&st, pid, 0);
    if (r < 0)
        return r;
    s->pid = pid;
    s->starttime = st.starttime;
    s->live = proc_live_task(pid);
    if (s->live < 0)
        return -ESRCH;
    r = take_threads(s);
    if (r == 0)
        r = maps_read(&s->maps, s->live);
    if (r == 0)
        r = proc_fds(s->live, &s->fds, &s->fd_count);
    if (r == 0 && (!s->maps.count || !proc_task_lives(pid, s->live, &st))) /* nothing is mapped for one that has ended */
        r = -ESRCH;
    return r == -ENOENT ? -ESRCH : r;
}

/* In a process whose leader is gone, the thread that is asked may end while it is. */
static int take(struct inject_snapshot *s, pid_t pid)
{
    int r = -ESRCH, i;
    for (i = 0; i < PROC_LOOKS && r == -ESRCH; i++) {
        release(s);
        *s = (struct inject_snapshot){0};
        r = take_once(s, pid);
        if (r == -ESRCH && proc_live_task(pid) < 0)
            break;
    }
    return r;
}

int inject_snapshot_take(struct inject_snapshot **ret, pid_t pid, struct mp_failure *f)
{
    struct inject_snapshot *s = calloc(1, sizeof(*s));
    int fault = FAULT_POINT("verify", 0);
    int r = !s ? -ENOMEM : fault < 0 ? fault : take(s, pid);
    if (r < 0) {
        inject_snapshot_free(s);
        return gather_refusal(pid, r, f);
    }
    *ret = s;
    return 0;
}

void inject_snapshot_free(struct inject_snapshot *s)
{
    if (!s)
        return;
    release(s);
    free(s);
}

/* --- telling ---------------------------------------------------------------- */

/* What is ours goes first: two texts, joined at the end. */
struct report {
    struct inject_diff *diff;
    char ours[sizeof(((struct inject_diff *)0)->detail)];
    char others[sizeof(((struct inject_diff *)0)->detail)];
};

static void append(char *buf, size_t size, const char *line)
{
    size_t used = strlen(buf);
    if (used + strlen(line) + 2 > size)
        return; /* the counts still tell */
    if (used)
        buf[used++] = '\n';
    strcpy(buf + used, line);
}

__attribute__((format(printf, 3, 4))) static void tell(struct report *r, bool ours, const char *fmt, ...)
{
    char line[400], safe[400];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(line, sizeof(line), fmt, ap);
    va_end(ap);
    utf8_sanitise_into(safe, sizeof(safe), line, strlen(line));
    append(ours ? r->ours : r->others, sizeof(r->ours), safe);
}

/* --- mappings ---------------------------------------------------------------- */

#define ARENA_SIZE (64ull << 20) /* HEAP_MAX_SIZE, malloc/arena.c of glibc, 64-bit */

/* A malloc arena that glibc made for a second thread: 64 MiB, aligned to its size,
 * of which the beginning is in use and the rest reserved. glibc keeps it for the
 * next thread; it is the library's state and not ours to unmap. */
static bool is_arena_part(const struct maps *m, const struct maps_entry *e)
{
    const struct maps_entry *head, *rest;
    if (!e->write && e == m->entry)
        return false;
    head = e->write ? e : e - 1;
    rest = head + 1;
    if (rest >= m->entry + m->count)
        return false;
    return head->write && !head->exec && !head->inode && head->lo % ARENA_SIZE == 0 && rest->lo == head->hi &&
           !rest->read && !rest->write && !rest->inode && rest->hi == head->lo + ARENA_SIZE;
}

static void tell_mapping(struct report *r, const struct maps *m, const struct maps_entry *e, bool ours, const char *how)
{
    const char *name = e->name[0] ? e->name : "anonymous";
    if (!ours && how[0] == '+' && is_arena_part(m, e)) {
        r->diff->libc_arenas += e->write;
        if (e->write)
            tell(r, false, "mapping + %lx-%lx: malloc arena of the target's libc (64 MiB reserved), kept by libc for its "
                           "next thread",
                 (unsigned long)e->lo, (unsigned long)(e->lo + ARENA_SIZE));
        return;
    }
    tell(r, ours, "mapping %s %lx-%lx %c%c%c %.200s", how, (unsigned long)e->lo, (unsigned long)e->hi,
         e->read ? 'r' : '-', e->write ? 'w' : '-', e->exec ? 'x' : '-', name);
}

static bool same_mapping(const struct maps_entry *a, const struct maps_entry *b)
{
    return a->hi == b->hi && a->read == b->read && a->write == b->write && a->exec == b->exec &&
           !strcmp(a->name, b->name);
}

static void compare_mappings(struct report *r, const struct inject_snapshot *b, const struct inject_snapshot *a,
                             const struct ours *ours)
{
    size_t i = 0, k = 0, changed = 0, left = 0;
    size_t before = b ? b->maps.count : 0;
    while (i < before || k < a->maps.count) {
        const struct maps_entry *was = i < before ? &b->maps.entry[i] : NULL;
        const struct maps_entry *is = k < a->maps.count ? &a->maps.entry[k] : NULL;
        if (is && (!was || is->lo <= was->lo)) {
            bool same_place = was && is->lo == was->lo;
            k++;
            i += same_place;
            if (ours_mapping(ours, is)) {
                left++;
                tell_mapping(r, &a->maps, is, true, "left");
            } else if (b && !(same_place && same_mapping(was, is))) {
                changed++;
                tell_mapping(r, &a->maps, is, false, same_place ? "~" : "+");
            }
        } else {
            i++;
            changed++;
            tell_mapping(r, &b->maps, was, false, "-");
        }
    }
    r->diff->kind[INJECT_MAPPINGS].before = before;
    r->diff->kind[INJECT_MAPPINGS].after = a->maps.count;
    r->diff->kind[INJECT_MAPPINGS].ours = left;
    r->diff->kind[INJECT_MAPPINGS].changed = changed;
}

/* --- descriptors --------------------------------------------------------------- */

static void compare_fds(struct report *r, const struct inject_snapshot *b, const struct inject_snapshot *a,
                        const struct ours *ours)
{
    size_t i = 0, k = 0, changed = 0, left = 0;
    size_t before = b ? b->fd_count : 0;
    while (i < before || k < a->fd_count) {
        const struct proc_fd *was = i < before ? &b->fds[i] : NULL;
        const struct proc_fd *is = k < a->fd_count ? &a->fds[k] : NULL;
        if (is && (!was || is->fd <= was->fd)) {
            bool same = was && was->fd == is->fd && !strcmp(was->target, is->target);
            i += was && was->fd == is->fd;
            k++;
            if (ours_fd(ours, a->live, is->fd, is->target)) {
                left++;
                tell(r, true, "descriptor left %d %.200s", is->fd, is->target);
            } else if (b && !same) {
                changed++;
                tell(r, false, "descriptor + %d %.200s", is->fd, is->target);
            }
        } else {
            i++;
            changed++;
            tell(r, false, "descriptor - %d %.200s", was->fd, was->target);
        }
    }
    r->diff->kind[INJECT_FDS].before = before;
    r->diff->kind[INJECT_FDS].after = a->fd_count;
    r->diff->kind[INJECT_FDS].ours = left;
    r->diff->kind[INJECT_FDS].changed = changed;
}

/* --- threads ---------------------------------------------------------------------- */

/* Thread ids that our own blocks name, in the target's numbering. */
struct our_tids {
    pid_t id[OURS_REGIONS_MAX * 2 + 1];
    size_t count;
};

static void add_tid(struct our_tids *t, int32_t id)
{
    if (id > 0 && t->count < sizeof(t->id) / sizeof(t->id[0]))
        t->id[t->count++] = id;
}

static void find_our_tids(struct our_tids *ret, const struct inject_snapshot *a, const struct ours *ours)
{
    struct mp_control c;
    raddr_t at;
    size_t i;
    *ret = (struct our_tids){0};
    for (i = 0; i < ours->region_count; i++) {
        struct mp_boot b;
        if (inject_read_boot(a->pid, ours->region[i], &b) < 0)
            continue;
        add_tid(ret, b.raw_tid);
        add_tid(ret, b.worker_tid);
    }
    if (ours_find_control(a->live, &a->maps, &at) == 1 && ours_read_control(a->live, at, &c) == 0)
        add_tid(ret, c.agent_tid);
}

static bool named_by_us(const struct our_tids *t, const struct inject_snapshot *a, pid_t tid)
{
    struct proc_status s;
    size_t i;
    if (!t->count || proc_status_read(&s, a->pid, tid) < 0)
        return false;
    for (i = 0; i < t->count; i++)
        if ((s.ns_pid ? s.ns_pid : tid) == t->id[i])
            return true;
    return false;
}

static bool mapped_now(pid_t live, raddr_t addr)
{
    struct maps m;
    bool found;
    if (maps_read(&m, live) < 0)
        return true;
    found = maps_at(&m, addr) != NULL;
    maps_release(&m);
    return found;
}

/* Where the thread is tells whose it is: in our code, or on a stack that is gone
 * (our worker's last instruction before exit(2) unmaps the stack it stood on). A
 * stack that is newer than the maps we hold belongs to a new thread of the target. */
static bool runs_in_ours(const struct inject_snapshot *a, const struct ours *ours, pid_t tid)
{
    struct proc_syscall at;
    const struct maps_entry *pc, *sp;
    if (proc_syscall_read(&at, a->pid, tid) < 0 || at.running)
        return false;
    pc = maps_at(&a->maps, at.pc);
    sp = maps_at(&a->maps, at.sp);
    if ((pc && ours_mapping(ours, pc)) || (sp && ours_mapping(ours, sp)))
        return true;
    return !sp && at.sp && !mapped_now(a->live, at.sp);
}

static const struct thread *find_thread(const struct inject_snapshot *s, pid_t tid)
{
    size_t i;
    for (i = 0; s && i < s->thread_count; i++)
        if (s->threads[i].tid == tid)
            return &s->threads[i];
    return NULL;
}

static void compare_threads(struct report *r, const struct inject_snapshot *b, const struct inject_snapshot *a,
                            const struct ours *ours)
{
    struct our_tids tids;
    size_t i, changed = 0, left = 0;
    find_our_tids(&tids, a, ours);
    for (i = 0; i < a->thread_count; i++) {
        pid_t tid = a->threads[i].tid;
        if (find_thread(b, tid))
            continue; /* it was there before us */
        if (named_by_us(&tids, a, tid) || runs_in_ours(a, ours, tid)) {
            left++;
            tell(r, true, "thread left %d", (int)tid);
        } else if (b) {
            changed++;
            r->diff->departing += a->threads[i].blocked == PROC_ALL_BLOCKED;
            tell(r, false, "thread + %d", (int)tid);
        }
    }
    for (i = 0; b && i < b->thread_count; i++) {
        if (!find_thread(a, b->threads[i].tid)) {
            changed++;
            tell(r, false, "thread - %d", (int)b->threads[i].tid);
        }
    }
    r->diff->kind[INJECT_THREADS].before = b ? b->thread_count : 0;
    r->diff->kind[INJECT_THREADS].after = a->thread_count;
    r->diff->kind[INJECT_THREADS].ours = left;
    r->diff->kind[INJECT_THREADS].changed = changed;
}

/* --- signals ------------------------------------------------------------------------ */

static size_t bits(uint64_t set) { return (size_t)__builtin_popcountll(set); }

/* Masks of the threads that lived before and live still (all, without a before). */
static void compare_masks(struct report *r, const struct inject_snapshot *b, const struct inject_snapshot *a)
{
    size_t i, before = 0, after = 0, changed = 0;
    for (i = 0; i < a->thread_count; i++) {
        const struct thread *was = find_thread(b, a->threads[i].tid), *is = &a->threads[i];
        if (b && !was)
            continue;
        after += bits(is->blocked);
        before += was ? bits(was->blocked) : 0;
        if (was && was->blocked != is->blocked) {
            changed++;
            tell(r, false, "signal mask of thread %d: %016lx, was %016lx", (int)is->tid, (unsigned long)is->blocked,
                 (unsigned long)was->blocked);
        }
    }
    r->diff->kind[INJECT_SIGMASK].before = before;
    r->diff->kind[INJECT_SIGMASK].after = after;
    r->diff->kind[INJECT_SIGMASK].changed = changed;
}

static void compare_actions(struct report *r, const struct inject_snapshot *b, const struct inject_snapshot *a)
{
    uint64_t differ = b ? (b->ignored ^ a->ignored) | (b->caught ^ a->caught) : 0;
    r->diff->kind[INJECT_SIGACTION].before = b ? bits(b->ignored) + bits(b->caught) : 0;
    r->diff->kind[INJECT_SIGACTION].after = bits(a->ignored) + bits(a->caught);
    r->diff->kind[INJECT_SIGACTION].changed = bits(differ);
    if (differ)
        tell(r, false, "signal dispositions differ: set %016lx", (unsigned long)differ);
}

/* --- the verdict ---------------------------------------------------------------------- */

static void compare(struct inject_diff *ret, const struct inject_snapshot *b, const struct inject_snapshot *a)
{
    struct inject_diff diff = {.clean = true};
    struct report r = {.diff = &diff};
    struct ours ours;
    int i;
    ours_find(&ours, a->live, &a->maps);
    compare_mappings(&r, b, a, &ours);
    compare_fds(&r, b, a, &ours);
    diff.thunks = ours.thunk_count;
    diff.regions = ours.region_count;
    compare_threads(&r, b, a, &ours);
    compare_masks(&r, b, a);
    compare_actions(&r, b, a);
    for (i = 0; i < INJECT_KINDS; i++)
        diff.clean &= diff.kind[i].ours == 0;
    strcpy(diff.detail, r.ours);
    diff.detail_left = strlen(r.ours);
    if (r.others[0]) { /* cut at a line when both do not fit */
        char *line, *next = r.others;
        while ((line = strsep(&next, "\n")))
            append(diff.detail, sizeof(diff.detail), line);
    }
    *ret = diff;
}

int inject_verify(pid_t pid, const struct inject_snapshot *before, struct inject_diff *ret, struct mp_failure *f)
{
    bool lost = true;
    int r = 0, i;
    for (i = 0; i < PROC_LOOKS && lost; i++) {
        struct inject_snapshot now = {0};
        int fault = FAULT_POINT("verify", 1);
        r = fault < 0 ? fault : take(&now, pid);
        if (r == 0 && before && before->starttime != now.starttime)
            r = -ESRCH; /* another process has the number now */
        if (r == 0)
            compare(ret, before, &now);
        lost = r == 0 && proc_task_lost(pid, now.live);
        release(&now);
    }
    if (r == -ESRCH)
        return mp_fail(f, MP_E_TARGET_EXITED, ESRCH, "process %d has exited", (int)pid);
    return r < 0 ? gather_refusal(pid, r, f) : 0;
}

int inject_wait_clean(pid_t pid, const struct inject_snapshot *before, unsigned timeout_ms, struct inject_diff *ret,
                      struct mp_failure *f)
{
    const struct timespec step = {.tv_nsec = 1000000};
    uint64_t end = clock_mono_ns() + timeout_ms * 1000000ull, depart = 0;
    for (;;) {
        struct inject_diff diff;
        int r = inject_verify(pid, before, &diff, f);
        uint64_t now = clock_mono_ns();
        bool over = now >= end;
        if (r < 0)
            return r;
        if (diff.clean && !depart)
            depart = now + DEPART_NS;
        if ((diff.clean && (!diff.departing || now >= depart)) || over) {
            *ret = diff;
            return diff.clean;
        }
        nanosleep(&step, NULL);
    }
}
