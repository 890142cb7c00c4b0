/* Getting rid of what is in a target (see cmd_residue.h). */
#include "cmd_residue.h"

#include <poll.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/fault.h"

#define POLL_STEP_MS 2
#define CURE_CLEAN_MS 2000u

struct residue_row {
    uint32_t bit;
    const char *text;
};

static const struct residue_row residue_rows[] = {
    {MP_RESIDUE_THUNK, "two thunk pages stay mapped, inert: a frame entered through them has not returned yet"},
    {MP_RESIDUE_CHAINED, "two thunk pages stay mapped, inert: another eval-frame user was installed above them"},
    {MP_RESIDUE_HELD, "the agent's library stays mapped, inert: somebody holds a reference to one of its callbacks"},
    {MP_RESIDUE_COPY, "what a fork copied of an agent stays, inert: it may still be reached"},
    {MP_RESIDUE_TRACE, "two thunk pages stay mapped, inert: another tracer may have kept our trace function, which is there"},
};

void residue_describe(const struct session *s, const struct inject_diff *d, char *buf, size_t len)
{
    struct mp_failure ignored = {0};
    struct inject_agent a;
    size_t used = 0;

    buf[0] = 0;
    for (size_t i = 0; i < sizeof(residue_rows) / sizeof(residue_rows[0]) && used < len; i++)
        if (s->bye.residue & residue_rows[i].bit)
            used += (size_t)snprintf(buf + used, len - used, "%s%s", used ? "\n" : "", residue_rows[i].text);
    if (!s->have_bye && used < len)
        used += (size_t)snprintf(buf + used, len - used, "the agent has not left yet: it waits for %s",
                                 session_waits_for(inject_find_agent(s->pid, &a, &ignored) > 0 ? &a : NULL));
    if (used < len && d->detail_left && d->detail[0]) /* what else differs is the target's own work */
        snprintf(buf + used, len - used, "%s%.*s", used ? "\n" : "", (int)d->detail_left, d->detail);
}

static void pause_step(void)
{
    poll(NULL, 0, POLL_STEP_MS); /* a bounded deadline loop: the control block gives no event to wait for */
}

int residue_detach(const struct talk *t, pid_t pid, struct inject_agent *a, uint64_t timeout_ns, struct mp_failure *f)
{
    uint64_t deadline = clock_mono_ns() + timeout_ns, hurry_ns = 0;
    struct mp_failure asked = {0};
    int n = inject_request_detach(pid, a, &asked);
    bool said = false;

    if (n && n != -MP_E_NOT_INJECTED) { /* which is what was to be reached */
        *f = asked;
        return n;
    }
    for (;;) {
        struct mp_failure look = {0};
        struct inject_agent now;

        n = inject_find_agent(pid, &now, &look);
        if (n < 0 && look.code == MP_E_ESRCH) {
            n = mp_fail(f, MP_E_TARGET_EXITED, 0, "process %d ended meanwhile", (int)pid);
            cmd_touched(pid, f);
            return n;
        }
        if (n == 0 || (n > 0 && !now.alive && now.control.state < MP_STATE_GONE)) /* what a fork has copied waits for nobody */
            return 0;
        if (n < 0 && clock_mono_ns() >= deadline) {
            *f = look;
            f->changed_target = true; /* it has been told to leave */
            return n;
        }
        if (n < 0) {
            pause_step();
            continue;
        }
        a->control = now.control;
        if (now.control.state == MP_STATE_GONE || now.control.state == MP_STATE_RESIDUE)
            return inject_ack_detach(pid, &now);
        if (clock_mono_ns() >= deadline) {
            f->changed_target = true;
            return mp_fail(f, MP_E_RESIDUE, 0, "the agent in process %d is still there%s%s", (int)pid,
                           now.control.state == MP_STATE_UNHOOKING ? ", inert, and waits for " : "",
                           now.control.state == MP_STATE_UNHOOKING ? session_waits_for(&now) : "");
        }
        if (!said && now.control.state == MP_STATE_UNHOOKING) {
            cmd_say(t, "the hooks are inert; the agent waits for %s", session_waits_for(&now));
            said = true;
        }
        if (!inject_hurry(pid, &now, &hurry_ns))
            pause_step();
    }
}

int residue_cure(const struct talk *t, pid_t pid, uint64_t timeout_ns, struct mp_failure *f)
{
    struct mp_options o = {.flags = MP_OPT_CURE, .depth = 1};
    uint64_t deadline = clock_mono_ns() + timeout_ns, pause_ns = 0;
    struct session s;
    struct inject_diff diff;
    int err;

    (void)FAULT_POINT("cure", 0);
    err = session_plan(&s, pid, t->log, f);
    if (!err)
        err = session_open(&s, &o, deadline, -1, t, f);
    if (!err)
        err = inject_wait_clean(pid, NULL, CURE_CLEAN_MS, &diff, f) < 0 ? -(int)f->code : 0;
    if (!err)
        err = inject_sweep(pid, t->log, &pause_ns, f);
    if (err < 0 && s.inj.region_base)
        cmd_touched(pid, f);
    if (err >= 0)
        cmd_say(t, "cleaned after an earlier session (paused %.0f us)",
                (double)(s.inj.pause_ns > pause_ns ? s.inj.pause_ns : pause_ns) / 1e3);
    session_release(&s);
    return err < 0 ? err : 0;
}
