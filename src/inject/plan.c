/* Making the plan: gather, decide, resolve. Nothing here stops or changes the
 * target; all of it is over before the first ptrace call.
 *
 *   gather_process   /proc, a test read         -> decide(DECIDE_PROCESS)
 *   gather_libraries modules, libc, Python      -> decide(DECIDE_LIBRARIES)
 *   fill             addresses for the boot block, TLS layout, unsafe text
 */
#include "inject/plan.h"

#include <elf.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "inject/channel.h"
#include "inject/decide.h"
#include "inject/gather.h"
#include "inject/libc.h"
#include "inject/python.h"
#include "inject/region.h"
#include "inject/view.h"
#include "target/mem.h"
#include "target/proc.h"

enum { CMDLINE_MAX = 4096, ENVIRON_MAX = 8 << 20 }; /* execve(2) lets no more than 6 MiB through */

/* The plan and what its pointers point to. */
struct plan_box {
    struct inject_plan plan; /* first: the pointer handed out is that of the box */
    char *exe, *cmdline, *py_file;
};

_Static_assert(offsetof(struct plan_box, plan) == 0, "inject_plan_free casts back");

/* Everything that lives only while the plan is made. */
struct making {
    struct plan_box *box;
    struct gather process;
    struct decide_facts *facts; /* of process; the libraries are added */
    struct view view;
    struct libc_id libc;
    struct python_id python;
    uint64_t py_sym[MP_PY_SYM_COUNT];
    int no_getfd; /* why descriptors can't be copied out of the target: -errno; 0 they can */
    FILE *log;
};

#define PLAN_TRIES 3 /* of a target that loads and unloads libraries all the time */

/* --- names and identity for the user ----------------------------------------- */

static char *exe_of(pid_t live)
{
    char buf[4096];
    return strdup(proc_link(live, "exe", buf, sizeof(buf)) < 0 ? "" : buf);
}

static int gather_names(struct making *g, struct mp_failure *f)
{
    struct plan_box *b = g->box;
    struct inject_facts *p = &b->plan.facts;
    b->exe = exe_of(g->process.live);
    b->cmdline = proc_cmdline(g->process.live, CMDLINE_MAX);
    if (!b->cmdline)
        b->cmdline = strdup("");
    if (!b->exe || !b->cmdline)
        return mp_fail(f, MP_E_INTERNAL, ENOMEM, "out of memory");
    p->pid = g->facts->pid;
    p->starttime = g->process.starttime;
    p->threads = g->process.threads;
    p->rss_bytes = g->process.rss_bytes;
    b->plan.ns_pid = g->process.ns_pid;
    p->exe = b->exe;
    p->cmdline = b->cmdline;
    return 0;
}

/* A pidfd, and proof that it is of the process that was looked at: the pid may
 * have been given to another one before the descriptor was opened. */
static int open_pidfd(struct making *g, struct mp_failure *f)
{
    struct inject_facts *p = &g->box->plan.facts;
    struct proc_stat now;
    int fd = proc_pidfd(p->pid);
    p->pidfd = fd < 0 ? -1 : fd;
    g->no_getfd = channel_probe(p->pid, g->process.live, fd);
    g->box->plan.boot.channel = g->no_getfd < 0 ? MP_CHANNEL_PIPES : MP_CHANNEL_SOCKET;
    if (proc_stat_read(&now, p->pid, 0) < 0 || now.starttime != p->starttime)
        return mp_fail(f, MP_E_TARGET_EXITED, ESRCH, "process %d has just exited", (int)p->pid);
    return 0;
}

/* glibc's malloc then has one arena and, while there is one thread, no lock. */
static bool single_arena(pid_t live)
{
    char *text;
    size_t len;
    bool found;
    const char *at;
    if (proc_read_head(live, "environ", ENVIRON_MAX, &text, &len) < 0)
        return false;
    found = proc_environ_has(text, len, "MALLOC_ARENA_MAX=1");
    for (at = text; !found && at < text + len; at += strlen(at) + 1)
        found = !strncmp(at, "GLIBC_TUNABLES=", 15) && strstr(at, "glibc.malloc.arena_max=1") != NULL;
    free(text);
    return found;
}

bool plan_single_threaded(const struct inject_plan *p, pid_t live)
{
    unsigned char alone;
    return mem_read(live, p->single_threaded, &alone, sizeof alone) < 0 || alone;
}

/* --- libraries --------------------------------------------------------------- */

static void gather_libraries(struct making *g)
{
    struct decide_facts *d = g->facts;
    enum mp_py_sym missing;
    libc_identify(&g->view, &g->libc);
    d->libc = g->libc.kind;
    d->libc_name = g->libc.name;
    d->glibc_major = g->libc.major;
    d->glibc_minor = g->libc.minor;
    python_identify(&g->view, &g->python);
    d->python = g->python.kind;
    d->python_file = g->python.module ? g->python.module->base : "";
    d->py_version = g->python.version;
    d->free_threaded = g->python.free_threaded;
    d->initialized = g->python.initialized;
    d->finalizing = g->python.finalizing;
    if (g->python.kind != PYTHON_CPYTHON)
        return;
    missing = python_resolve(&g->view, &g->python, g->py_sym);
    d->missing_symbol = missing == MP_PY_SYM_COUNT ? NULL : python_sym_name(missing);
}

/* --- the boot block ----------------------------------------------------------- */

static int fill_agent(struct mp_boot *b, struct mp_failure *f)
{
    struct elf *e;
    int r = elf_open_image(&e, inject_agent_image, (size_t)(inject_agent_image_end - inject_agent_image));
    if (r < 0)
        return mp_fail(f, MP_E_INTERNAL, -r, "the agent inside this mempulse can't be read as ELF: %s", strerror(-r));
    b->agent_entry_off = elf_addr(e, "mp_agent_main");
    elf_free(e);
    if (!b->agent_entry_off)
        return mp_fail(f, MP_E_INTERNAL, 0, "the agent inside this mempulse has no mp_agent_main");
    return 0;
}

static int fill_python(struct making *g, struct mp_failure *f)
{
    struct plan_box *b = g->box;
    struct inject_plan *p = &b->plan;
    b->py_file = strdup(g->python.module->part->name);
    if (!b->py_file)
        return mp_fail(f, MP_E_INTERNAL, ENOMEM, "out of memory");
    p->facts.py_file = b->py_file;
    p->facts.py_version = g->python.version;
    p->facts.py_static = g->python.is_static;
    p->boot.py_version = g->python.version;
    p->boot.py_flags = g->python.is_static ? MP_PYF_STATIC : 0;
    memcpy(p->boot.py_sym, g->py_sym, sizeof(g->py_sym));
    p->boot.switch_interval = python_switch_interval(&g->view, &g->python);
    p->gil_count = python_gil_ranges(&g->view, &g->python, p->gil, PLAN_GIL_MAX);
    p->retries_count = python_wait_ranges(&g->view, &g->python, p->retries, PLAN_RETRIES_MAX);
    return 0;
}

static int fill(struct making *g, struct mp_failure *f)
{
    struct inject_plan *p = &g->box->plan;
    struct mp_boot *b = &p->boot;
    int r;
    b->magic = MP_BOOT_MAGIC;
    b->abi = MP_ABI;
    b->size = sizeof(*b);
    b->region_len = MP_REGION_SIZE;
    b->launcher_fd = b->agent_fd = b->agent_out = b->memfd = -1;
    b->launcher_pid = proc_same_ns(g->process.live, getpid(), "pid") == 1 ? getpid() : 0;
    b->owner_pid = p->ns_pid; /* a fork may come before the loader can say it */
    p->suspend_seccomp = g->facts->seccomp == 2;
    p->single_arena = single_arena(g->process.live);
    r = fill_agent(b, f);
    if (r == 0)
        r = fill_python(g, f);
    if (r == 0)
        r = libc_fill(&g->view, &g->libc, p, f);
    b->note_threads = g->libc.minor >= PLAN_GLIBC_NOTES && plan_single_threaded(p, g->process.live);
    if (r == 0)
        region_places(p->place, &g->view.maps, p->syscall_insn);
    return r;
}

/* --- -v ------------------------------------------------------------------------ */

static void log_plan(const struct making *g)
{
    const struct inject_plan *p = &g->box->plan;
    const struct view *v = &g->view;
    uint32_t ver = p->boot.py_version;
    unsigned i;
    view_log(v, "plan: %s, CPython %u.%u.%u in %s%s", p->facts.exe, ver >> 24, ver >> 16 & 255, ver >> 8 & 255,
             p->facts.py_file, p->facts.py_static ? " (static)" : "");
    view_log(v, "plan: %s, glibc %u.%u, %u threads, pid %d in its namespace", g->libc.name, p->facts.glibc_major,
             p->facts.glibc_minor, p->facts.threads, (int)p->ns_pid);
    view_log(v, "plan: syscall;ret %#lx, sigreturn %#lx, exit loop %#lx, r_state %#lx, tid at %#x",
             (unsigned long)p->syscall_insn, (unsigned long)p->restore_rt, (unsigned long)p->boot.exit_gadget,
             (unsigned long)p->r_state, p->boot.tid_offset);
    for (i = 0; i < p->tls_count; i++)
        view_log(v, "plan: static TLS %#lx below the TCB, %#lx bytes, image %#lx", (unsigned long)p->tls[i].tp_offset,
                 (unsigned long)p->tls[i].memsz, (unsigned long)p->tls[i].image);
    for (i = 0; i < p->unsafe_count; i++)
        view_log(v, "plan: not in %s, %#lx-%#lx%s", p->unsafe[i].what, (unsigned long)p->unsafe[i].lo,
                 (unsigned long)p->unsafe[i].hi, p->unsafe[i].stack_too ? ", nor above it" : "");
    if (g->no_getfd < 0)
        view_log(v, "plan: channel: two pipes, opened through /proc (no pidfd_getfd here: %s)", strerror(-g->no_getfd));
    else
        view_log(v, "plan: channel: a socketpair, fetched with pidfd_getfd");
    if (p->suspend_seccomp)
        view_log(v, "plan: the target's seccomp filter is suspended while it is traced");
    if (g->log) {
        fprintf(g->log, "plan: the exit loop:\n");
        disasm_print(v->disasm, g->log, p->boot.exit_gadget, 4, p->boot.exit_gadget);
    }
}

/* --- entry --------------------------------------------------------------------- */

static int make(struct making *g, struct mp_failure *f)
{
    int r;
    r = decide(g->facts, DECIDE_PROCESS, f);
    if (r == 0)
        r = gather_names(g, f);
    if (r == 0)
        r = open_pidfd(g, f);
    if (r < 0)
        return r;
    r = view_open(&g->view, g->process.live, g->log);
    if (r < 0)
        return gather_refusal(g->facts->pid, r, f);
    gather_libraries(g);
    r = decide(g->facts, DECIDE_LIBRARIES, f);
    if (r == 0)
        r = fill(g, f);
    if (r == 0)
        log_plan(g);
    return r;
}

/* A thread's id was given: its process is meant. */
static pid_t process_of(pid_t pid)
{
    struct proc_status s;
    return proc_status_read(&s, pid, 0) == 0 && s.tgid > 0 ? s.tgid : pid;
}

static const struct maps_entry *next_code(const struct maps *m, size_t *at)
{
    while (*at < m->count && !(m->entry[*at].exec && m->entry[*at].inode))
        ++*at;
    return *at < m->count ? &m->entry[(*at)++] : NULL;
}

/* Whether libraries came or went while they were read. One may be back at its place. */
static bool libraries_moved(const struct making *g)
{
    struct maps now;
    size_t i = 0, k = 0;
    const struct maps_entry *was, *is;
    for (i = 0; i < g->view.count; i++)
        if (g->view.module[i].elf_error)
            return true;
    i = 0;
    if (!g->view.maps.count || maps_read(&now, g->process.live) < 0)
        return false;
    do {
        was = next_code(&g->view.maps, &i);
        is = next_code(&now, &k);
    } while (was && is && was->lo == is->lo && was->hi == is->hi && was->inode == is->inode);
    maps_release(&now);
    return was || is;
}

/* One try. 1: what was read was changing, and is worth another one. */
static int try_make(struct inject_plan **ret_plan, pid_t pid, FILE *log, struct mp_failure *f)
{
    struct making g = {.log = log};
    bool moved;
    int r;
    g.box = calloc(1, sizeof(*g.box));
    if (!g.box)
        return mp_fail(f, MP_E_INTERNAL, ENOMEM, "out of memory");
    g.box->plan.facts.pidfd = -1;
    gather_process(&g.process, process_of(pid));
    g.facts = &g.process.facts;
    r = make(&g, f);
    moved = r < 0 && libraries_moved(&g);
    if (r < 0 && g.view.no_memory) { /* what it was refused for may be false */
        *f = (struct mp_failure){0};
        r = mp_fail(f, MP_E_INTERNAL, ENOMEM, "out of memory");
    }
    view_close(&g.view);
    if (r < 0) {
        inject_plan_free(&g.box->plan);
        return moved ? 1 : r;
    }
    *ret_plan = &g.box->plan;
    return 0;
}

int inject_plan_make(struct inject_plan **ret_plan, pid_t pid, FILE *log, struct mp_failure *f)
{
    struct mp_failure why = {0};
    int r = 1, i;
    for (i = 0; r == 1 && i < PLAN_TRIES; i++) {
        why = (struct mp_failure){0};
        r = try_make(ret_plan, pid, log, &why);
    }
    if (r == 0)
        return 0;
    if (f && !f->code) /* the first error wins */
        *f = why;
    return -(int)why.code;
}

void inject_plan_free(struct inject_plan *p)
{
    struct plan_box *b = (struct plan_box *)p;
    if (!b)
        return;
    if (p->facts.pidfd >= 0)
        close(p->facts.pidfd);
    free(b->exe);
    free(b->cmdline);
    free(b->py_file);
    free(b);
}

const struct inject_facts *inject_plan_facts(const struct inject_plan *p) { return &p->facts; }
