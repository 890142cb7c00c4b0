/* mempulse inject, the live part: inject, stream, detach, look again, tell.
 *
 * Whatever ends a session (a signal, the duration, a count, a reader that left,
 * an agent that was asked to leave from another terminal, a target that ends)
 * becomes a `reason`; from then on everything is bounded in time. */
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "base/args.h"
#include "base/clock.h"
#include "base/output.h"
#include "cmd_inject.h"
#include "cmd_lock.h"
#include "cmd_residue.h"
#include "cmd_session.h"
#include "cmd_watch.h"
#include "render/render.h"
#include "target/proc.h"

#define LEAVE_WAIT_NS 10000000000ull /* for BYE: the agent may have to wait for the GIL */
#define WATCH_NS 30000000000ull      /* beyond the time that is given, for all that reads the target */
#define CLEAN_WAIT_MS 3000u          /* for the last mapping to go after BYE */
#define STRAY_WAIT_MS 100u           /* for a mapping that is not ours to go by itself */
#define END_WAIT_MS 500              /* for a process that closed its end to be seen as ended */
#define END_STEP_MS 20
#define SETTLE_STEP_MS 5
#define STREAM_NICE 10
#define NEVER_NS UINT64_MAX
#define MODEL_PAGE 4096u /* x86-64: the one size there is */

struct live {
    const struct inject_options *o;
    struct session s;
    struct output out;
    struct model *model;
    struct render *render;    /* NULL with --summary in text */
    struct render_meta meta;
    struct render_end end;
    struct inject_diff diff;
    char *path;               /* -o, expanded */
    char residue[1400];
    const char *reason;       /* why the session ends; NULL while it goes on */
    int output_err;           /* why the output failed, an errno; 0 while it is whole */
    enum mp_err err;          /* what the reason means for the exit code; 0 none */
    int sig_fd;
    int lock_fd;              /* held while we change the target: up to HOOKED, and while we leave */
    int signo;                /* the signal that ended us */
    uint64_t begin_ns, end_ns; /* CLOCK_MONOTONIC: hooked, and when to end */
    uint64_t calls;           /* call records shown */
};

static const int end_signals[] = {SIGINT, SIGTERM, SIGHUP};

static int live_signals(struct live *l)
{
    sigset_t set;

    sigemptyset(&set);
    for (size_t i = 0; i < sizeof(end_signals) / sizeof(end_signals[0]); i++)
        sigaddset(&set, end_signals[i]);
    if (sigprocmask(SIG_BLOCK, &set, NULL))
        return -errno;
    signal(SIGPIPE, SIG_IGN);
    signal(SIGTSTP, SIG_IGN); /* a suspended launcher would leave an agent that nobody reads */
    l->sig_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    return l->sig_fd < 0 ? -errno : 0;
}

static void live_stop(struct live *l, const char *reason, enum mp_err err)
{
    if (l->reason)
        return;
    l->reason = reason;
    l->err = err;
}

/* A signal came. The first one ends the session, the second one ends us. */
static void live_take_signal(struct live *l)
{
    struct signalfd_siginfo si;

    while (read(l->sig_fd, &si, sizeof(si)) == sizeof(si)) {
        if (l->signo) {
            fprintf(stderr, "mempulse: left at once; to be sure that nothing stays: mempulse detach -p %d\n",
                    (int)l->o->pid);
            _exit(128 + (int)si.ssi_signo);
        }
        l->signo = (int)si.ssi_signo;
        if (!l->reason)
            cmd_say(&l->o->talk, "detaching (%s); once more to leave at once", strsignal(l->signo));
        live_stop(l, "signal", 0);
    }
}

/* A signal that came while the target was as it is: no reason to begin. */
static int live_not_interrupted(const struct live *l, struct mp_failure *f)
{
    struct pollfd wake = {l->sig_fd, POLLIN, 0};

    return poll(&wake, 1, 0) > 0 ? mp_fail(f, MP_E_INTERRUPTED, 0, "interrupted before process %d was injected", (int)l->o->pid) : 0;
}

/* Which signal it was that ended us before there was a session. */
static void live_tell_signal(struct live *l, struct mp_failure *f)
{
    struct signalfd_siginfo si;

    if (f->code != MP_E_INTERRUPTED || read(l->sig_fd, &si, sizeof(si)) != sizeof(si))
        return;
    f->signo = (int)si.ssi_signo;
    mp_fail_hint(f, "signal %d (%s) ended it%s; run it again", f->signo, strsignal(f->signo),
                 l->s.inj.region_base ? ", and what had been begun was taken back" : "");
}

/* A write failed: the reader left (which is an end like another) or the output is broken. */
static void live_output_failed(struct live *l, int err)
{
    if (err != -EPIPE && !l->output_err)
        l->output_err = -err;
    live_stop(l, err == -EPIPE ? "stdout_closed" : "output_error", err == -EPIPE ? 0 : MP_E_OUTPUT);
}

/* From here on the target's memory is read, for ns and what such reading takes. */
static void live_watch(const struct live *l, uint64_t ns, bool touched)
{
    cmd_watch(&l->o->talk, l->o->pid, ns + WATCH_NS, touched);
}

static int live_open_output(struct live *l, struct mp_failure *f)
{
    const struct inject_options *o = l->o;
    int err;

    if (o->output) {
        l->path = args_expand_path(o->output, o->pid);
        if (!l->path && errno == ENOMEM)
            return mp_fail(f, MP_E_INTERNAL, ENOMEM, "out of memory");
        if (!l->path)
            return mp_fail(f, MP_E_USAGE, 0, "-o '%s': only %%p, %%t and %%%% can stand there", o->output);
    }
    err = output_open(&l->out, l->path, l->sig_fd);
    if (err == -EINTR)
        return mp_fail(f, MP_E_INTERRUPTED, 0, "interrupted while %s was opened", l->path);
    if (err == -EXDEV)
        return mp_fail(f, MP_E_OUTPUT, EACCES, "cannot write %s: it lies where anybody may write, and belongs to another user", l->path);
    if (err)
        return mp_fail(f, MP_E_OUTPUT, -err, "cannot write %s: %s", l->path, strerror(-err));
    return 0;
}

/* --thread names a tid of this namespace; the agent knows its own. */
static int live_thread(struct live *l, struct mp_options *agent, struct mp_failure *f)
{
    struct proc_status st;
    int r;

    if (!l->o->thread)
        return 0;
    r = proc_status_read(&st, l->o->pid, (pid_t)l->o->thread);
    if (r == -ENOMEM)
        return mp_fail(f, MP_E_INTERNAL, ENOMEM, "out of memory");
    if (r)
        return mp_fail(f, MP_E_ESRCH, 0, "process %d has no thread %ld", (int)l->o->pid, l->o->thread);
    agent->thread = st.ns_pid ? st.ns_pid : (int32_t)l->o->thread;
    return 0;
}

/* As inject_find_agent, of an agent that is neither coming nor going: with our lock held
 * that is one whose launcher died, gave up, or has another view of /proc than we. It
 * will be hooked, or gone, without our help. */
static int live_find_settled(struct live *l, uint64_t deadline_ns, struct inject_agent *ret, struct mp_failure *f)
{
    struct pollfd wake = {l->sig_fd, POLLIN, 0};
    uint64_t hurry_ns = 0;

    for (;;) {
        int n = inject_find_agent(l->o->pid, ret, f);

        if (n <= 0 || !ret->alive || ret->control.state == MP_STATE_HOOKED || ret->control.state >= MP_STATE_GONE)
            return n;
        (void)inject_hurry(l->o->pid, ret, &hurry_ns);
        if (poll(&wake, 1, SETTLE_STEP_MS) > 0)
            return mp_fail(f, MP_E_INTERRUPTED, 0, "interrupted while an agent of another mempulse (launcher %d) was %s process %d",
                           ret->control.launcher_pid, ret->control.state == MP_STATE_UNHOOKING ? "leaving" : "entering",
                           (int)l->o->pid);
        if (clock_mono_ns() >= deadline_ns)
            return mp_fail(f, MP_E_BUSY_MEMPULSE, 0, "an agent of another mempulse (launcher %d) is %s process %d",
                           ret->control.launcher_pid, ret->control.state == MP_STATE_UNHOOKING ? "leaving" : "entering",
                           (int)l->o->pid);
    }
}

/* An agent is there already: the same session, another one, or a leftover.
 * 0 go on, 1 nothing to do, negative enum mp_err. */
static int live_existing(struct live *l, const struct mp_options *agent, uint64_t deadline_ns, struct mp_failure *f)
{
    struct inject_agent a;
    int n = live_find_settled(l, deadline_ns, &a, f);

    if (n < 0)
        return n;
    if (n == 0) /* a fork may have copied a region that had no agent yet, or no more */
        return inject_copies(l->o->pid) > 0 ? residue_cure(&l->o->talk, l->o->pid, l->o->timeout_ns, f) : 0;
    if (!a.alive || a.control.state == MP_STATE_RESIDUE || a.control.state == MP_STATE_GONE)
        return residue_cure(&l->o->talk, l->o->pid, l->o->timeout_ns, f);
    if (!l->o->replace && !memcmp(&a.control.options, agent, sizeof(*agent))) {
        cmd_say(&l->o->talk, "process %d is already injected with these options (launcher %d); nothing to do",
                (int)l->o->pid, a.control.launcher_pid);
        return 1;
    }
    if (!l->o->replace)
        return mp_fail(f, MP_E_BUSY_SESSION, 0, "process %d already has a session, of launcher %d, with other options",
                       (int)l->o->pid, a.control.launcher_pid);
    return residue_detach(&l->o->talk, l->o->pid, &a, l->o->timeout_ns, f);
}

static void live_fill_meta(struct live *l, const struct mp_options *agent)
{
    const struct inject_facts *facts = l->s.facts;

    l->meta = (struct render_meta){
        .tool_version = MP_VERSION,
        .pid = l->o->pid,
        .starttime = facts->starttime,
        .exe = facts->exe,
        .cmdline = facts->cmdline,
        .py_version = facts->py_version,
        .py_static = facts->py_static,
        .glibc_major = facts->glibc_major,
        .glibc_minor = facts->glibc_minor,
        .threads = facts->threads,
        .rss_bytes = facts->rss_bytes,
        .page_size = l->s.selftest.page_size ? l->s.selftest.page_size : MODEL_PAGE,
        .pause_ns = l->s.inj.pause_ns,
        .pause_sum_ns = l->s.inj.pause_ns_sum,
        .attempts = l->s.inj.attempts,
        .options = *agent,
        .selftest = l->s.selftest,
        .slots = l->s.slots,
        .start_mono_ns = l->s.hooked_ns,
        .realtime_offset_ns = (int64_t)(clock_real_ns() - clock_mono_ns()),
    };
}

static unsigned terminal_width(int fd)
{
    struct winsize ws;

    if (!isatty(fd))
        return 0;
    return !ioctl(fd, TIOCGWINSZ, &ws) && ws.ws_col ? ws.ws_col : 80;
}

/* All that a session needs to be shown, before the target is touched: a want of memory is
 * a refusal then. From HOOKED on every way leads to the verdict. */
static int live_renderer(struct live *l, struct mp_failure *f)
{
    struct render_options ro = {
        .out = l->out.file,
        .color = l->path ? l->o->color_file : l->o->color,
        .lines = l->o->agent.flags & MP_OPT_LINES,
        .width = terminal_width(l->out.fd),
    };

    l->model = model_new(MODEL_PAGE);
    if (l->o->format == FORMAT_NDJSON)
        l->render = render_ndjson_new(&ro);
    else if (!l->o->summary)
        l->render = render_text_new(&ro);
    if (!l->model || (!l->render && !(l->o->summary && l->o->format == FORMAT_TEXT)))
        return mp_fail(f, MP_E_INTERNAL, ENOMEM, "out of memory");
    return 0;
}

/* -n: keeps the records up to the last one that is still wanted. */
static void live_cut_records(struct live *l, struct stream_event *ev)
{
    if (l->o->count && l->calls >= l->o->count)
        ev->records.count = 0;
    for (unsigned i = 0; i < ev->records.count; i++) {
        if (ev->records.rec[i].type != MP_REC_CALL)
            continue;
        l->calls++;
        if (l->calls == l->o->count) {
            ev->records.count = i + 1;
            live_stop(l, "count", 0);
        }
    }
}

static void live_event(struct live *l, struct stream_event *ev)
{
    int err;

    if (ev->type == MP_MSG_RECORDS)
        live_cut_records(l, ev);
    if (model_event(l->model, ev))
        live_stop(l, "out_of_memory", MP_E_INTERNAL);
    /* With --summary NDJSON keeps its frame (meta, ranks, end) and leaves the records out. */
    if (l->render && !(l->o->summary && ev->type == MP_MSG_RECORDS)) {
        err = render_event(l->render, l->model, ev);
        if (err)
            live_output_failed(l, err);
    }
    if (ev->type != MP_MSG_BYE)
        return;
    if (ev->bye.reason == MP_BYE_FINALIZE)
        live_stop(l, "target_finalizing", MP_E_TARGET_EXITED);
    else if (ev->bye.reason == MP_BYE_CUT)
        live_stop(l, RENDER_END_CUT, MP_E_FDS_CLOSED);
    else
        live_stop(l, "detached", 0);
}

/* The target closed or replaced our descriptors: the agent, which can't say BYE any
 * more, left its account in the control block. */
static void live_cut(struct live *l, struct inject_agent *a)
{
    const struct mp_control *c = &a->control;
    struct mp_failure f = {0};

    live_stop(l, RENDER_END_CUT, MP_E_FDS_CLOSED);
    if (residue_detach(&l->o->talk, l->o->pid, a, LEAVE_WAIT_NS, &f) || c->state < MP_STATE_GONE)
        return;
    l->s.bye = (struct mp_bye){
        .reason = MP_BYE_CUT, .residue = c->residue, .records = c->records, .lost = c->lost, .hook_ns = c->hook_ns,
        .slots = c->slots_after, .account = c->account,
    };
    l->s.have_bye = true;
}

/* The socket ended without BYE: what happened to the target? A process that ends
 * closes its descriptors first and gives up its memory before it is a zombie
 * (kernel/exit.c, do_exit), so it gets a moment to do so. An exec leaves another
 * program, without our agent, in a process that goes on. A target that closed our
 * descriptors has its agent for MP_ACK_WAIT_MS at least. */
static void live_eof(struct live *l)
{
    struct pollfd end = {l->s.facts->pidfd, POLLIN, 0};
    uint64_t until = clock_mono_ns() + END_WAIT_MS * 1000000ull;
    struct mp_failure f = {0};
    struct inject_agent a;
    int n, same;

    if (l->s.have_bye)
        return;
    live_watch(l, 2 * LEAVE_WAIT_NS, true);
    l->reason = NULL; /* an end of its own, whatever was under way */
    do {
        if (poll(&end, 1, END_STEP_MS) > 0 || !session_target_runs(&l->s)) {
            live_stop(l, "target_exited", MP_E_TARGET_EXITED);
            return;
        }
        if (session_cut(&l->s, &a)) {
            live_cut(l, &a);
            return;
        }
        same = session_same_image(&l->s);
    } while (same && clock_mono_ns() < until);
    n = inject_find_agent(l->o->pid, &a, &f);
    if (same == 0 || (n == 0 && same < 0))
        live_stop(l, "target_execed", MP_E_TARGET_EXECED);
    else if (n < 0 && f.code == MP_E_ESRCH)
        live_stop(l, "target_exited", MP_E_TARGET_EXITED);
    else
        live_stop(l, "agent_lost", MP_E_AGENT);
}

/* Takes events until `until_ns`, EOF, BYE, or (before a reason exists) a reason. True: EOF. */
static bool live_pump(struct live *l, uint64_t until_ns, struct mp_failure *f)
{
    bool ending = l->reason != NULL;

    while (!l->s.have_bye && (ending || !l->reason)) {
        struct stream_event ev;
        uint64_t now = clock_mono_ns();
        uint64_t tick = now + 200000000u; /* what was rendered is seen within this time */
        int n = session_next(&l->s, tick < until_ns ? tick : until_ns, l->sig_fd, ending ? -1 : l->out.fd, &ev, f);

        if (n == SESSION_EVENT) {
            live_event(l, &ev);
            /* Flush when the socket has nothing more, or once a second. An agent that never
             * stops to talk is left in time all the same. */
            if (ev.type != MP_MSG_STATS && clock_mono_ns() < until_ns)
                continue;
        } else if (n == SESSION_WAKE) {
            live_take_signal(l);
            if (!l->signo)
                live_stop(l, "stdout_closed", 0);
        } else if (n == SESSION_EOF) {
            return true;
        } else if (n == SESSION_NONE) {
            session_hurry(&l->s);
        } else if (n < 0) {
            live_stop(l, "protocol_error", f->code);
            return false;
        }
        if (output_flush(&l->out))
            live_output_failed(l, -l->out.err);
        if (clock_mono_ns() >= until_ns) {
            live_stop(l, "duration", 0);
            return false;
        }
    }
    return false;
}

/* ---- streaming, out of the target's way ------------------------------------------- */

struct apart {
    struct live *l;
    struct mp_failure *f;
    bool eof;
};

/* Whoever has work to do is not kept from its CPU by us: no preemption when we wake up, and
 * the least share where all are busy (sched(7)). Where that is refused we go on as we are. */
static void *live_apart(void *arg)
{
    struct apart *a = arg;
    struct sched_param none = {0};

    if (sched_setscheduler(0, SCHED_BATCH, &none) || setpriority(PRIO_PROCESS, 0, STREAM_NICE))
        cmd_say(&a->l->o->talk, "the stream is read at the priority of any process: %s", strerror(errno));
    a->eof = live_pump(a->l, a->l->end_ns, a->f);
    return NULL;
}

/* On a thread of its own, since a nice value can't be taken back: what stops the target
 * (here, afterwards) must not wait for a CPU. */
static bool live_pump_apart(struct live *l, struct mp_failure *f)
{
    struct apart a = {.l = l, .f = f};
    pthread_t thread;

    if (pthread_create(&thread, NULL, live_apart, &a))
        return live_pump(l, l->end_ns, f);
    pthread_join(thread, NULL);
    return a.eof;
}

static bool live_target_gone(const struct live *l)
{
    return l->err == MP_E_TARGET_EXITED || l->err == MP_E_TARGET_EXECED;
}

static bool live_lock(struct live *l, struct mp_failure *f)
{
    return l->lock_fd >= 0 ||
           cmd_lock(&l->o->talk, l->o->pid, clock_mono_ns() + LEAVE_WAIT_NS, l->sig_fd, &l->lock_fd, f) >= 0;
}

/* As session_wait_clean. */
static int live_sweep(struct live *l, const char *what, struct mp_failure *f)
{
    uint64_t pause_ns;

    if (inject_sweep(l->o->pid, l->o->talk.log, &pause_ns, f) > 0)
        cmd_say(&l->o->talk, "took away %s (paused %.0f us)", what, (double)pause_ns / 1e3);
    return session_wait_clean(&l->s, STRAY_WAIT_MS, &l->diff, f);
}

/* A region that is not this session's. A launcher killed while its thread was told to
 * mmap leaves one, and not at once: the thread may get a CPU after all of us have looked.
 * Whoever is at work now is waited for first; then nobody else's is swept. */
static int live_stray(struct live *l, struct mp_failure *f)
{
    int n;

    if (!live_lock(l, f))
        return 0;
    n = session_wait_clean(&l->s, STRAY_WAIT_MS, &l->diff, f);
    return n != SESSION_STRAY || l->lock_fd < 0 ? n : live_sweep(l, "what a mempulse that was killed had left", f);
}

/* An agent can't tell whether another tracer has kept its trace function; the target's memory does. */
static int live_traced(struct live *l, struct mp_failure *f)
{
    return !live_lock(l, f) || l->lock_fd < 0 ? 0 : live_sweep(l, "the thunk that another tracer might have led to", f);
}

/* What is left in the target after the session, in words and as bits. */
static void live_verify(struct live *l)
{
    struct mp_failure look = {0};
    int n;

    l->end.clean = l->err == MP_E_TARGET_EXITED;
    l->end.residue = l->s.have_bye ? l->s.bye.residue : 0;
    if (l->end.clean)
        return;
    if (l->err == MP_E_TARGET_EXECED) { /* another program: nothing of `before` is in it */
        inject_snapshot_free(l->s.before);
        l->s.before = NULL;
    }
    n = session_wait_clean(&l->s, CLEAN_WAIT_MS, &l->diff, &look);
    if (n == SESSION_STRAY)
        n = live_stray(l, &look);
    if (n == 0 && l->end.residue & MP_RESIDUE_TRACE)
        n = live_traced(l, &look);
    if (n < 0 && l->err == MP_E_TARGET_EXECED)
        n = 1; /* it can't be looked at (a setuid program, say); exec itself took all that was ours */
    if (n == SESSION_SUCCEEDED) { /* what the diff names is the next session's; ours is what BYE names */
        l->diff.detail[0] = 0;
        n = l->s.have_bye && !l->end.residue;
    }
    l->end.clean = n == 1 || n == -MP_E_TARGET_EXITED;
    if (l->end.clean)
        l->end.residue = 0; /* what the agent had to leave has gone since */
    l->end.unseen = n < 0 && !l->end.clean;
    if (l->end.unseen)
        snprintf(l->residue, sizeof(l->residue), "%.500s; to be sure: mempulse detach -p %d", look.message, (int)l->o->pid);
    else if (!l->end.clean)
        residue_describe(&l->s, &l->diff, l->residue, sizeof(l->residue));
}

static void live_fill_end(struct live *l)
{
    struct model_totals t;
    uint64_t wall = clock_mono_ns() - l->begin_ns, hook;

    model_totals(l->model, &t);
    hook = l->s.have_bye ? l->s.bye.hook_ns : t.last.hook_ns;
    l->end.reason = l->reason ? l->reason : "detached";
    l->end.records = t.records;
    l->end.lost = t.lost[0];
    l->end.tail_missing = !l->s.have_bye;
    l->end.hook_ns = hook;
    if (l->s.bye.reason == MP_BYE_CUT && l->s.bye.records + l->s.bye.lost > t.records + t.lost[0] && !l->o->count)
        l->end.lost = l->s.bye.records + l->s.bye.lost - t.records; /* what was under way in the socket too */
    l->end.cost_pct = wall ? 100.0 * (double)hook / (double)wall : 0;
    l->end.account = t.account;
    l->end.overhead_pct = render_overhead_pct(hook, t.account.work_ns);
    l->end.max_overhead_ppm = l->meta.options.max_overhead_ppm;
    l->end.depth = l->meta.options.depth;
    l->end.pause_ns = l->meta.pause_ns;
    l->end.pause_sum_ns = l->meta.pause_sum_ns;
    l->end.attempts = l->meta.attempts;
    l->end.wall_ns = wall;
    l->end.residue_text = l->residue;
}

/* The results that come when the stream has ended. */
static void live_report(struct live *l)
{
    int err = 0;

    if (l->render)
        err = render_finish(l->render, l->model, &l->end);
    if (!err && l->o->report_mempulse)
        err = render_mempulse(l->o->format == FORMAT_TEXT ? l->out.file : stdout, l->model);
    else if (!err && l->o->format == FORMAT_TEXT)
        err = render_ranking(l->out.file, l->model, l->path ? l->o->color_file : l->o->color, terminal_width(l->out.fd));
    if (!err)
        err = output_flush(&l->out);
    if (err && err != -EPIPE) {
        l->output_err = l->output_err ? l->output_err : -err;
        l->err = l->err ? l->err : MP_E_OUTPUT;
    }
    if (l->path && l->o->format == FORMAT_TEXT && !l->o->talk.quiet)
        err = render_ranking(stdout, l->model, l->o->color, terminal_width(STDOUT_FILENO));
    if (!l->o->talk.quiet)
        err = render_verdict(stderr, l->o->pid, &l->end);
    if (l->end.clean && l->diff.libc_arenas)
        cmd_say(&l->o->talk, "the target's libc made a malloc arena meanwhile (64 MiB of addresses reserved, a few pages "
                             "used), as for any new thread, and keeps it for the next one");
}

static bool live_fail_on(const struct live *l)
{
    const struct inject_fail_on *c = &l->o->fail_on;
    const struct model_code **rank = NULL;
    struct model_totals t;
    bool met = false;

    model_totals(l->model, &t);
    if (c->rss && t.rss_first >= 0 && t.rss_last - t.rss_first > (int64_t)c->rss) {
        cmd_say(&l->o->talk, "--fail-on: the process grew by %" PRId64 " bytes", t.rss_last - t.rss_first);
        met = true;
    }
    if (c->self && model_ranking(l->model, &rank) > 0 && rank[0]->rss_self > (int64_t)c->self) {
        cmd_say(&l->o->talk, "--fail-on: %s grew by %" PRId64 " bytes", rank[0]->name, rank[0]->rss_self);
        met = true;
    }
    free(rank);
    return met;
}

static bool live_too_lossy(const struct live *l)
{
    double all = (double)(l->end.records + l->end.lost);

    return l->o->max_loss_pct >= 0 && all > 0 && 100.0 * (double)l->end.lost / all > l->o->max_loss_pct;
}

/* One exit code; what endangers the target comes first. */
static int live_exit_code(const struct live *l)
{
    if (!l->end.clean)
        return mp_err_exit_code(MP_E_RESIDUE);
    if (l->err)
        return mp_err_exit_code(l->err);
    if (l->signo)
        return 128 + l->signo;
    if (live_too_lossy(l))
        return mp_err_exit_code(MP_E_LOSS);
    if (live_fail_on(l))
        return mp_err_exit_code(MP_E_FAIL_ON);
    return 0;
}

/* From 3.12 on os.fork() warns when the kernel counts more than one thread, and our
 * agent's is one (CPython, posixmodule.c, warn_about_fork_with_threads). A program that
 * has threads of its own is warned anyhow. */
static void live_fork_note(struct live *l)
{
    static const char text[] = "from Python 3.12 on os.fork() warns of threads (DeprecationWarning); this process has one, "
                               "and the agent's is counted while it is there";
    struct stream_event ev = {.type = MP_MSG_NOTE};
    int err;

    if (l->meta.py_version < 0x030c0000 || l->meta.threads != 1)
        return;
    cmd_say(&l->o->talk, "%s", text);
    ev.note.head = (struct mp_note){.code = MP_NOTE_FORK, .text_len = sizeof(text) - 1};
    ev.note.text = text;
    if (l->render && l->o->format == FORMAT_NDJSON && (err = render_event(l->render, l->model, &ev)))
        live_output_failed(l, err);
}

/* From HOOKED to the verdict. */
static void live_stream(struct live *l, const struct mp_options *agent)
{
    struct mp_failure later = {0};
    char pause[96];
    int err;

    live_fill_meta(l, agent);
    cmd_say(&l->o->talk, "attached to %d (CPython %u.%u.%u, glibc %u.%u): %s; Ctrl-C detaches",
            (int)l->o->pid, l->meta.py_version >> 24, l->meta.py_version >> 16 & 255, l->meta.py_version >> 8 & 255,
            l->meta.glibc_major, l->meta.glibc_minor,
            render_pause(pause, sizeof(pause), l->meta.pause_ns, l->meta.pause_sum_ns, l->meta.attempts));
    l->begin_ns = l->s.hooked_ns;
    l->end_ns = l->o->duration_ns ? l->begin_ns + l->o->duration_ns : NEVER_NS;
    l->out.end_ns = l->o->duration_ns ? l->end_ns : 0;
    if (l->render && (err = render_begin(l->render, &l->meta)))
        live_output_failed(l, err);
    live_fork_note(l);
    if (live_pump_apart(l, &later))
        live_eof(l);
    l->out.end_ns = clock_mono_ns(); /* an output without room gets a grace from here on */
    /* Who comes now waits until all is clean. Where another one is at work already (a
     * detach from elsewhere), it is that one who waits for us: no reason to wait for it. */
    live_watch(l, 2 * LEAVE_WAIT_NS, true);
    l->lock_fd = cmd_lock_now(l->o->pid);
    session_detach(&l->s);
    if (!live_target_gone(l) && live_pump(l, clock_mono_ns() + LEAVE_WAIT_NS, &later))
        live_eof(l);
    live_verify(l);
    cmd_watch_off();
    cmd_unlock(&l->lock_fd);
    live_fill_end(l);
    live_report(l);
}

static int live_run(struct live *l, struct mp_failure *f)
{
    struct mp_options agent = l->o->agent;
    uint64_t deadline = clock_mono_ns() + l->o->timeout_ns;
    int err = live_signals(l);

    if (err)
        return mp_fail(f, MP_E_INTERNAL, -err, "signalfd failed: %s", strerror(-err));
    err = live_open_output(l, f);
    if (!err)
        err = live_renderer(l, f);
    if (!err)
        err = live_thread(l, &agent, f);
    if (!err)
        err = cmd_lock(&l->o->talk, l->o->pid, deadline, l->sig_fd, &l->lock_fd, f);
    if (!err) {
        live_watch(l, 2 * l->o->timeout_ns, false);
        err = live_existing(l, &agent, deadline, f);
    }
    if (!err) {
        live_watch(l, l->o->timeout_ns, false);
        err = session_plan(&l->s, l->o->pid, l->o->talk.log, f);
    }
    if (!err)
        err = live_not_interrupted(l, f);
    if (!err) {
        live_watch(l, 2 * l->o->timeout_ns + LEAVE_WAIT_NS, true);
        err = session_open(&l->s, &agent, deadline, l->sig_fd, &l->o->talk, f);
        if (err)
            cmd_touched(l->o->pid, f);
    }
    cmd_watch_off();
    cmd_unlock(&l->lock_fd);
    if (!err)
        live_stream(l, &agent);
    return err;
}

int inject_live(const struct inject_options *o)
{
    struct live l = {.o = o, .sig_fd = -1, .lock_fd = -1, .out = {.fd = -1}, .s = {.inj = {.fd = -1}}};
    struct mp_failure f = {0};
    int err = live_run(&l, &f), code = 0, werr;

    if (err < 0) {
        live_tell_signal(&l, &f);
        code = cmd_fail(&o->talk, o->pid, &f);
    } else if (err == 0) {
        code = live_exit_code(&l);
    }
    werr = output_close(&l.out);
    if (werr && werr != -EPIPE && !code)
        code = mp_err_exit_code(MP_E_OUTPUT);
    if (code == mp_err_exit_code(MP_E_OUTPUT) && err == 0)
        fprintf(stderr, "mempulse: the output failed: %s\n", strerror(l.output_err ? l.output_err : -werr));
    render_free(l.render);
    model_free(l.model);
    session_release(&l.s);
    free(l.path);
    if (l.sig_fd >= 0)
        close(l.sig_fd);
    return code;
}
