/* What can be known about a process without touching it: /proc, and whether its memory
 * may be read. */
#include "inject/gather.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "target/elf.h"
#include "target/maps.h"
#include "target/mem.h"
#include "target/proc.h"

/* --- us and our surroundings ------------------------------------------------ */

static bool is_init_user_ns(void)
{
    char *text;
    size_t len;
    unsigned long inside = 1, outside = 1, count = 0;
    if (proc_read_path("/proc/self/uid_map", &text, &len) < 0)
        return true; /* a kernel without user namespaces */
    if (sscanf(text, "%lu %lu %lu", &inside, &outside, &count) != 3)
        count = 0;
    free(text);
    return inside == 0 && outside == 0 && count == 4294967295ul;
}

static bool have_sudo(void)
{
    static const char *const places[] = {"/usr/bin/sudo", "/bin/sudo", "/usr/local/bin/sudo"};
    size_t i;
    for (i = 0; i < sizeof(places) / sizeof(places[0]); i++)
        if (access(places[i], X_OK) == 0)
            return true;
    return false;
}

/* 0, or -ENOMEM. */
static int gather_self(struct decide_facts *d)
{
    struct proc_status me;
    int r = proc_status_read(&me, getpid(), 0);
    d->my_uid = getuid();
    d->my_gid = getgid();
    if (r == 0) {
        d->my_cap_permitted = me.cap_permitted;
        d->my_cap_effective = me.cap_effective;
        d->my_cap_bounding = me.cap_bounding;
        d->my_seccomp = me.seccomp;
    }
    d->init_user_ns = is_init_user_ns();
    d->yama = proc_yama_scope();
    d->have_sudo = have_sudo();
    d->in_kubernetes = getenv("KUBERNETES_SERVICE_HOST") != NULL;
    d->in_container = access("/.dockerenv", F_OK) == 0 || access("/run/.containerenv", F_OK) == 0;
    return r == -ENOMEM ? r : 0;
}

/* --- the process ------------------------------------------------------------ */

static void take_tracer(struct decide_facts *d, pid_t tracer)
{
    struct proc_stat s;
    d->tracer = tracer;
    if (proc_stat_read(&s, tracer, 0) == 0)
        memcpy(d->tracer_comm, s.comm, sizeof(d->tracer_comm));
}

static void take_status(struct gather *g, const struct proc_status *s)
{
    struct decide_facts *d = &g->facts;
    memcpy(d->uid, s->uid, sizeof(d->uid));
    memcpy(d->gid, s->gid, sizeof(d->gid));
    d->cap_permitted = s->cap_permitted;
    if (s->tracer > 0)
        take_tracer(d, s->tracer);
    d->seccomp = s->seccomp;
    g->seccomp_filters = s->seccomp_filters;
    d->shadow_stack = s->shadow_stack;
    g->ns_pid = s->ns_pid ? s->ns_pid : d->pid;
    g->threads = s->threads;
    g->rss_bytes = s->rss_bytes;
}

/* A thread may be traced alone, or be the one with the shadow stack: any of them
 * counts. Seccomp may differ by thread too: the strictest mode is taken, and modes and
 * numbers of filters are compared. 0, or -ENOMEM. */
static int gather_threads(struct gather *g)
{
    pid_t *tids;
    size_t i, n;
    int r = proc_tasks(g->facts.pid, &tids, &n);
    if (r < 0)
        return r == -ENOMEM ? r : 0;
    for (i = 0; i < n && r != -ENOMEM; i++) {
        struct proc_status s;
        r = proc_status_read(&s, g->facts.pid, tids[i]);
        if (r < 0)
            continue;
        g->facts.seccomp_differs |= s.seccomp != g->facts.seccomp || s.seccomp_filters != g->seccomp_filters;
        if (s.seccomp == 1 || (s.seccomp == 2 && g->facts.seccomp == 0))
            g->facts.seccomp = s.seccomp;
        g->facts.shadow_stack |= s.shadow_stack;
        if (!g->facts.tracer && s.tracer)
            take_tracer(&g->facts, s.tracer);
    }
    free(tids);
    return r == -ENOMEM ? r : 0;
}

/* One byte of its memory: the kernel asks the same of it as of PTRACE_SEIZE. */
static int try_byte(pid_t live)
{
    struct maps maps;
    unsigned char byte;
    int r = maps_read(&maps, live);
    if (r < 0)
        return r;
    r = maps.count ? mem_read(live, maps.entry[0].lo, &byte, 1) : -ESRCH;
    maps_release(&maps);
    return r == -EFAULT ? 0 : r; /* a guard page: reading as such is allowed */
}

/* Whether its memory may be read. To open it is to be asked the same, and touches no page,
 * for which one might have to wait; but a policy may be about files alone. */
static int try_read(pid_t live)
{
    char path[64];
    int fd;
    snprintf(path, sizeof(path), "/proc/%d/mem", (int)live);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return try_byte(live);
    close(fd);
    return 0;
}

static void gather_live(struct gather *g)
{
    struct decide_facts *d = &g->facts;
    if (elf_exe_machine(g->live, &d->elf_class, &d->machine) < 0)
        d->elf_class = 0;
    if (proc_dumpable(g->live, d->uid[1], &d->dumpable) < 0)
        d->dumpable = true;
    d->same_user_ns = proc_same_ns(g->live, getpid(), "user") != 0; /* unknown: no cause is made up */
    proc_lsm_label(g->live, d->lsm, sizeof(d->lsm));
    d->read_error = try_read(g->live);
}

void gather_process(struct gather *g, pid_t pid)
{
    struct decide_facts *d = &g->facts;
    struct proc_stat stat;
    struct proc_status status;
    int r, short_of;
    *g = (struct gather){.facts.pid = pid};
    short_of = gather_self(d);
    r = proc_stat_read(&stat, d->pid, 0);
    if (r == 0)
        r = proc_status_read(&status, d->pid, 0);
    d->exists = r == 0 || r == -ENOMEM;
    if (r == -ENOMEM) /* ours is short, which says nothing of the process */
        d->read_error = r;
    else if (r < 0)
        d->hidden = kill(d->pid, 0) < 0 && errno == EPERM;
    if (r < 0)
        return;
    d->state = stat.state;
    d->kernel_thread = (stat.flags & PROC_PF_KTHREAD) != 0;
    g->starttime = stat.starttime;
    take_status(g, &status);
    if (short_of == 0)
        short_of = gather_threads(g);
    g->live = proc_live_task(d->pid);
    d->exited = g->live < 0 && g->live != -ENOMEM;
    if (g->live < 0 || d->kernel_thread) {
        d->read_error = g->live == -ENOMEM ? -ENOMEM : short_of;
        return;
    }
    gather_live(g);
    if (short_of < 0)
        d->read_error = short_of;
    if (d->read_error == 0)
        room_gather(&d->room, d->pid, g->live, &status);
}

int gather_refusal(pid_t pid, int err, struct mp_failure *f)
{
    struct gather g;
    int r;
    if (err == -ENOMEM)
        return mp_fail(f, MP_E_INTERNAL, ENOMEM, "out of memory");
    gather_process(&g, pid);
    r = decide(&g.facts, DECIDE_ACCESS, f);
    if (r < 0)
        return r;
    if (err == -ESRCH)
        return mp_fail(f, MP_E_TARGET_EXITED, ESRCH, "process %d has exited", (int)pid);
    if (err == -EPERM || err == -EACCES)
        return mp_fail(f, MP_E_EPERM, -err, "the kernel refuses access to process %d: %s", (int)pid, strerror(-err));
    return mp_fail(f, MP_E_INTERNAL, -err, "process %d cannot be looked at: %s", (int)pid, strerror(-err));
}
