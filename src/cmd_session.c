/* One session with an agent (see cmd_session.h). */
#include "cmd_session.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fault.h"
#include "base/utf8.h"
#include "inject/room.h"
#include "target/proc.h"

/* dlopen may have to wait for the target's own imports; nothing of the target waits for us meanwhile. */
#define HELLO_WAIT_NS 5000000000ull
#define HURRY_LOOK_NS 1000000000ull
#define SILENCE_NS 100000000u /* in the handshake: then the agent waits for the GIL */
#define SAY_NS 500000000u     /* and this long, that the user is told */
#define LEAVE_WAIT_MS 1500u
#define LOOK_MS 200
#define END_WAIT_MS 500   /* for a process that closed its end to be seen as ended */
#define END_STEP_MS 20
#define CLEAN_STEP_MS 200u
#define CLEAN_RETRY_MS 20
#define RIVAL_WAIT_NS 2000000000ull /* below MP_GO_WAIT_MS: our agent waits for GO meanwhile */
#define RIVAL_STEP_MS 5

struct fail_row {
    enum mp_fail agent;
    enum mp_err err;
};

static const struct fail_row fail_rows[] = {
    {MP_FAIL_FINALIZING, MP_E_PY_FINALIZING}, {MP_FAIL_AUDIT, MP_E_AUDIT_VETO},
    {MP_FAIL_TOOL_IDS, MP_E_BUSY_TOOL_IDS},   {MP_FAIL_LAYOUT, MP_E_PY_LAYOUT},
    {MP_FAIL_TRACER, MP_E_BUSY_TRACE_SLOT},   {MP_FAIL_ABI, MP_E_ABI},
    {MP_FAIL_GIL, MP_E_GIL_TIMEOUT},          {MP_FAIL_CUT, MP_E_FDS_CLOSED},
    {MP_FAIL_NO_GIL, MP_E_PY_NO_GIL},         {MP_FAIL_EXECMEM, MP_E_EXECMEM},
};

static enum mp_err fail_to_err(uint32_t code)
{
    for (size_t i = 0; i < sizeof(fail_rows) / sizeof(fail_rows[0]); i++)
        if (fail_rows[i].agent == code)
            return fail_rows[i].err;
    return MP_E_AGENT;
}

int session_plan(struct session *s, pid_t pid, FILE *log, struct mp_failure *f)
{
    int err;

    memset(s, 0, sizeof(*s));
    s->pid = pid;
    s->inj.fd = s->inj.out = -1;
    s->log = log;
    err = inject_plan_make(&s->plan, pid, log, f);
    if (err)
        return err;
    s->facts = inject_plan_facts(s->plan);
    return 0;
}

/* Closes the launcher's end: the agent's lease is over. */
static void session_hang_up(struct session *s)
{
    if (s->inj.fd < 0)
        return;
    if (s->inj.out >= 0 && s->inj.out != s->inj.fd)
        close(s->inj.out);
    close(s->inj.fd);
    s->inj.fd = s->inj.out = -1;
}

/* No more will be said to the agent; what it says is still read. */
static void session_half_close(struct session *s)
{
    if (s->inj.out == s->inj.fd) {
        shutdown(s->inj.fd, SHUT_WR);
        return;
    }
    close(s->inj.out);
    s->inj.out = -1;
}

void session_release(struct session *s)
{
    session_hang_up(s);
    stream_free(s->stream);
    inject_snapshot_free(s->before);
    inject_plan_free(s->plan);
    s->stream = NULL;
    s->before = NULL;
    s->plan = NULL;
}

void session_detach(struct session *s)
{
    if (s->inj.fd < 0 || s->detach_sent || s->have_bye)
        return;
    /* A channel that takes no 8 bytes has an agent that no longer reads: then
     * closing our end of it is the lease's end, which says the same. */
    if (stream_send(s->inj.out, MP_MSG_DETACH, NULL, 0))
        session_half_close(s);
    s->detach_sent = true;
}

static int session_timeout_ms(uint64_t deadline_ns)
{
    uint64_t now = clock_mono_ns(), left;

    if (deadline_ns <= now)
        return 0;
    left = (deadline_ns - now + 999999u) / 1000000u;
    return left > 3600000u ? 3600000 : (int)left;
}

/* Without a pidfd (before 5.3, or a policy) the end of a process gives no event,
 * and a forked child may hold the agent's end open: it is looked for. */
static int session_poll_ms(const struct session *s, uint64_t deadline_ns)
{
    int ms = session_timeout_ms(deadline_ns);

    return s->facts->pidfd < 0 && ms > LOOK_MS ? LOOK_MS : ms;
}

bool session_target_runs(const struct session *s)
{
    struct proc_stat st;

    return !proc_stat_read(&st, s->pid, 0) && st.starttime == s->facts->starttime && st.state != 'X' &&
           (st.state != 'Z' || st.threads > 1);
}

/* Keeps what the session itself needs of an event. */
static void session_note_event(struct session *s, const struct stream_event *ev)
{
    (void)FAULT_POINT("got", (int)ev->type);
    switch (ev->type) {
    case MP_MSG_HELLO:
        s->hello = ev->hello;
        break;
    case MP_MSG_SELFTEST:
        s->selftest = ev->selftest;
        break;
    case MP_MSG_HOOKED:
        s->slots = ev->slots;
        s->hooked = true;
        s->hooked_ns = clock_mono_ns();
        break;
    case MP_MSG_BYE:
        s->bye = ev->bye;
        s->have_bye = true;
        break;
    default:
        break;
    }
}

int session_next(struct session *s, uint64_t deadline_ns, int wake_fd, int extra_fd,
                 struct stream_event *ret_event, struct mp_failure *f)
{
    for (;;) {
        /* The pidfd too: a forked child may still hold the agent's end of the
         * socket, so that the target's death alone would close nothing. */
        struct pollfd p[4] = {{s->inj.fd, POLLIN, 0}, {wake_fd, POLLIN, 0}, {extra_fd, 0, 0},
                              {s->facts->pidfd, POLLIN, 0}};
        int n = stream_next(s->stream, ret_event);

        if (n < 0)
            return mp_fail(f, MP_E_AGENT, EPROTO, "the agent in process %d broke the protocol", (int)s->pid);
        if (n > 0) {
            session_note_event(s, ret_event);
            return SESSION_EVENT;
        }
        n = poll(p, 4, session_poll_ms(s, deadline_ns));
        if (n < 0 && errno != EINTR)
            return mp_fail(f, MP_E_INTERNAL, errno, "poll failed: %s", strerror(errno));
        if (n == 0 && s->facts->pidfd < 0 && !session_target_runs(s))
            return SESSION_EOF;
        if (n <= 0 && clock_mono_ns() >= deadline_ns)
            return SESSION_NONE;
        if (n <= 0)
            continue;
        if (p[1].revents || (p[2].revents & (POLLERR | POLLHUP | POLLNVAL)))
            return SESSION_WAKE;
        if (!p[0].revents && p[3].revents)
            return SESSION_EOF;
        if (!p[0].revents)
            continue;
        n = stream_fill(s->stream, s->inj.fd);
        if (n == 0 || (n < 0 && n != -EAGAIN && n != -EINTR))
            return SESSION_EOF; /* ECONNRESET: the agent went with bytes of ours unread */
    }
}

bool session_cut(const struct session *s, struct inject_agent *ret_agent)
{
    struct mp_failure ignored = {0};

    return inject_find_agent(s->pid, ret_agent, &ignored) > 0 && ret_agent->alive && ret_agent->control.cut &&
           ret_agent->control.region_base == s->inj.region_base;
}

int session_same_image(const struct session *s)
{
    uint8_t now[sizeof(s->image)];

    if (!s->image_known || proc_image_id(s->pid, now))
        return -1;
    return !memcmp(now, s->image, sizeof(now));
}

/* Why nothing came over the socket: the boot block or the process may say. */
static int session_explain_silence(struct session *s, const char *what, struct mp_failure *f)
{
    struct pollfd end = {s->facts->pidfd, POLLIN, 0};
    struct inject_agent agent;
    struct mp_boot boot;

    /* A process that dies closes its descriptors before it is seen as ended. */
    for (int waited = 0; waited < END_WAIT_MS; waited += END_STEP_MS) {
        if (poll(&end, 1, END_STEP_MS) > 0 || !session_target_runs(s))
            return mp_fail(f, MP_E_TARGET_EXITED, 0, "process %d ended while being injected", (int)s->pid);
        if (session_cut(s, &agent))
            return mp_fail(f, MP_E_FDS_CLOSED, 0, "process %d closed or replaced the session's descriptors", (int)s->pid);
    }
    if (!inject_read_boot(s->pid, s->inj.region_base, &boot) && boot.error) {
        int err;

        boot.error_text[sizeof(boot.error_text) - 1] = 0;
        err = room_explain(boot.error_text, s->pid, boot.error, f);
        if (err < 0)
            return err;
        return mp_fail(f, MP_E_INJECT, boot.error, "the agent could not be loaded in process %d: %.200s",
                       (int)s->pid, boot.error_text);
    }
    return mp_fail(f, MP_E_INJECT, 0, "the agent in process %d did not %s in time", (int)s->pid, what);
}

int session_wait_clean(struct session *s, unsigned timeout_ms, struct inject_diff *ret_diff, struct mp_failure *f)
{
    uint64_t end = clock_mono_ns() + timeout_ms * 1000000ull;
    struct inject_agent other;

    for (;;) {
        struct mp_failure look = {0};
        int n = inject_wait_clean(s->pid, s->before, timeout_ms < CLEAN_STEP_MS ? timeout_ms : CLEAN_STEP_MS, ret_diff, &look);

        if (n < 0 && look.sys_errno == ENOMEM && clock_mono_ns() < end) {
            poll(NULL, 0, CLEAN_RETRY_MS); /* memory comes back without an event */
            continue;
        }
        if (n < 0 && !f->code)
            *f = look;
        if (n != 0)
            return n;
        if (s->hello.tid && inject_session_gone(s->pid, s->inj.region_base, s->hello.tid)) {
            if (inject_find_other(s->pid, s->hello.tid, &other) > 0)
                return SESSION_SUCCEEDED;
            if (ret_diff->regions)
                return SESSION_STRAY;
        }
        if (clock_mono_ns() >= end)
            return 0;
    }
}

const char *session_waits_for(const struct inject_agent *a)
{
    return a && a->control.starved ? "memory (see RLIMIT_AS, RLIMIT_DATA), of which it needs a little to take its hooks out"
                                   : "the interpreter lock (GIL)";
}

/* The agent was told to leave after a failure: has it? */
static void session_abandon(struct session *s, struct mp_failure *f)
{
    struct inject_diff diff;
    struct mp_failure ignored = {0};
    int n;

    session_detach(s);
    session_hang_up(s);
    n = session_wait_clean(s, LEAVE_WAIT_MS, &diff, &ignored);
    if (n == 0 || n == SESSION_STRAY || (n < 0 && n != -MP_E_TARGET_EXITED)) /* what can't be looked at is not told to be clean */
        f->changed_target = true;
    if (f->changed_target && f->code == MP_E_INTERRUPTED) { /* 128+n is for a clean end */
        struct inject_agent a;
        bool waits = n == 0 && inject_find_agent(s->pid, &a, &ignored) > 0 && a.control.gil_since_ns;

        *f = (struct mp_failure){.changed_target = true};
        mp_fail(f, MP_E_RESIDUE, 0, "interrupted before the agent had hooked, and it has not left process %d yet%s%s", (int)s->pid,
                waits ? ": it waits for " : "", waits ? session_waits_for(&a) : "");
    }
    if (f->changed_target)
        mp_fail_hint(f, "the agent leaves by itself as soon as it can; to check: mempulse detach -p %d --wait 60s",
                     (int)s->pid);
}

/* Two agents in one process would take each other's hooks for leftovers. The lock
 * (target/lock.h) keeps launchers apart, but not across two mounts of proc. So each
 * looks for the other between its agent's HELLO and its GO, when the agent is mapped and
 * has touched nothing: of two, at least one sees the other. The one with the higher
 * thread id gives way to any; the one with the lower waits until the other has, and
 * gives way as well should that one have been past this point already. */
static int session_yield(struct session *s, struct mp_failure *f)
{
    uint64_t end = clock_mono_ns() + RIVAL_WAIT_NS;
    struct inject_agent other;
    int n;

    while ((n = inject_find_other(s->pid, s->hello.tid, &other)) > 0) {
        uint32_t state = other.control.state;

        if (state == MP_STATE_HOOKING || state == MP_STATE_HOOKED ||
            (state == MP_STATE_NEW && other.control.agent_tid < s->hello.tid) || clock_mono_ns() >= end)
            return mp_fail(f, MP_E_BUSY_MEMPULSE, 0, "another mempulse has injected into process %d meanwhile", (int)s->pid);
        poll(NULL, 0, RIVAL_STEP_MS); /* a bounded deadline loop: another process's memory gives no event */
    }
    return n < 0 ? mp_fail(f, MP_E_INTERNAL, -n, "out of memory") : 0;
}

/* Sends the options; the socket is empty, so they fit. */
static int session_go(struct session *s, const struct mp_options *o, struct mp_failure *f)
{
    int err;

    if (s->hello.abi != MP_ABI)
        return mp_fail(f, MP_E_ABI, 0, "the agent speaks protocol %u, this launcher %u", s->hello.abi, MP_ABI);
    err = session_yield(s, f);
    if (err)
        return err;
    err = stream_send(s->inj.out, MP_MSG_GO, o, sizeof(*o));
    if (err == -EPIPE || err == -ECONNRESET)
        return session_explain_silence(s, "stay", f); /* the end of its stream has yet to be read */
    if (err)
        return mp_fail(f, MP_E_INJECT, -err, "the agent's channel took no options: %s", strerror(-err));
    return 0;
}

static int session_failed(struct session *s, const struct mp_failed *failed, struct mp_failure *f)
{
    int err = failed->code == MP_FAIL_PROC || failed->code == MP_FAIL_MEMORY ? failed->err : 0;
    char text[sizeof(failed->text)];

    snprintf(text, sizeof(text), "%.239s", failed->text);
    err = room_explain(text, s->pid, err, f);
    return err < 0 ? err : mp_fail(f, fail_to_err(failed->code), failed->err, "process %d: %s", (int)s->pid, text);
}

/* One event of the handshake. 0 go on, 1 done, negative enum mp_err. */
static int session_handshake_event(struct session *s, const struct mp_options *o, const struct stream_event *ev,
                                   const struct talk *t, struct mp_failure *f)
{
    char note[512];

    switch (ev->type) {
    case MP_MSG_HELLO:
        return session_go(s, o, f);
    case MP_MSG_HOOKED:
        return 1;
    case MP_MSG_FAILED:
        return session_failed(s, &ev->failed, f);
    case MP_MSG_BYE:
        if (o->flags & MP_OPT_CURE)
            return 1;
        return mp_fail(f, MP_E_AGENT, 0, "the agent left before it had hooked");
    case MP_MSG_NOTE:
        cmd_say(t, "%s", utf8_sanitise_into(note, sizeof(note), ev->note.text, ev->note.head.text_len));
        return 0;
    default:
        return 0;
    }
}

void session_hurry(struct session *s)
{
    struct mp_failure ignored = {0};
    uint64_t now = clock_mono_ns(), stood;

    if (now < s->hurry_ns)
        return;
    if (!s->agent.control_addr && inject_find_agent(s->pid, &s->agent, &ignored) <= 0) {
        s->hurry_ns = now + HURRY_LOOK_NS;
        return;
    }
    if (!s->agent_seen_ns)
        s->agent_seen_ns = now;
    stood = inject_standstill(s->plan, &s->agent, s->agent_seen_ns, s->log, &s->inj.attempts);
    s->inj.pause_ns += stood;
    s->inj.pause_ns_sum += stood;
    (void)inject_hurry(s->pid, &s->agent, &s->hurry_ns);
}

static int session_handshake(struct session *s, const struct mp_options *o, uint64_t deadline_ns, int wake_fd,
                             const struct talk *t, struct mp_failure *f)
{
    uint64_t hello_deadline = clock_mono_ns() + HELLO_WAIT_NS;
    uint64_t say_ns = 0;
    bool said = false;
    int err = 0;

    while (!err) {
        struct stream_event ev;
        uint64_t soon = clock_mono_ns() + SILENCE_NS;
        uint64_t limit = s->hello.abi ? deadline_ns : hello_deadline;

        switch (session_next(s, soon < limit ? soon : limit, wake_fd, -1, &ev, f)) {
        case SESSION_EVENT:
            err = session_handshake_event(s, o, &ev, t, f);
            limit = s->hello.abi ? deadline_ns : hello_deadline;
            if (err || clock_mono_ns() < limit)
                break;
            __attribute__((fallthrough)); /* an agent that talks on and on is late like a silent one */
        case SESSION_NONE:
            if (s->hello.abi && !say_ns)
                say_ns = clock_mono_ns() + SAY_NS - SILENCE_NS;
            if (say_ns && !said && clock_mono_ns() >= say_ns) {
                cmd_say(t, "waiting for the target's interpreter lock (GIL)");
                said = true;
            }
            if (s->hello.abi)
                session_hurry(s);
            if (clock_mono_ns() < limit)
                break;
            if (!s->hello.abi)
                return session_explain_silence(s, "answer", f);
            return mp_fail(f, MP_E_GIL_TIMEOUT, 0, "process %d did not release its interpreter lock (GIL) in time",
                           (int)s->pid);
        case SESSION_WAKE:
            return mp_fail(f, MP_E_INTERRUPTED, 0, "interrupted before the agent had hooked");
        case SESSION_EOF:
            return session_explain_silence(s, "stay", f);
        default:
            return -(int)f->code;
        }
    }
    return err < 0 ? err : 0;
}

/* Of a failure in a process that has replaced its program since, that is the cause, and nothing
 * of ours came with it. */
static void session_tell_exec(const struct session *s, struct mp_failure *f)
{
    struct mp_failure execed = {0};

    if (f->code == MP_E_TARGET_EXECED || session_same_image(s) != 0)
        return;
    (void)mp_fail(&execed, MP_E_TARGET_EXECED, f->sys_errno, "process %d replaced its program while being injected", (int)s->pid);
    *f = execed;
}

int session_open(struct session *s, const struct mp_options *o, uint64_t deadline_ns, int wake_fd,
                 const struct talk *t, struct mp_failure *f)
{
    uint64_t now = clock_mono_ns();
    unsigned left_ms = deadline_ns > now ? (unsigned)((deadline_ns - now) / 1000000u) : 1;
    int err;

    s->stream = stream_new();
    if (!s->stream)
        return mp_fail(f, MP_E_INTERNAL, ENOMEM, "out of memory");
    err = inject_snapshot_take(&s->before, s->pid, f);
    if (err)
        return err;
    s->image_known = proc_image_id(s->pid, s->image) == 0;
    signal(SIGPIPE, SIG_IGN); /* a channel of pipes has no MSG_NOSIGNAL */
    err = inject_run(s->plan, left_ms, wake_fd, t->log, &s->inj, f);
    if (err && f->changed_target) { /* what it could not take back may be leaving by itself */
        f->changed_target = false;
        session_abandon(s, f);
    }
    if (!err) {
        err = session_handshake(s, o, deadline_ns, wake_fd, t, f);
        if (err)
            session_abandon(s, f);
    }
    if (err)
        session_tell_exec(s, f);
    return err;
}
