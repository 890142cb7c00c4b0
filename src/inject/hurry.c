/* Helping the agent to the GIL (inject.h). Writes two words of the target, its control
 * block's and the interpreter's, while the target runs. */
#include <poll.h>
#include <stddef.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/fault.h"
#include "inject/inject.h"
#include "inject/ours.h"
#include "target/mem.h"
#include "target/proc.h"

#define HURRY_AFTER_NS 50000000ull
#define HURRY_AGAIN_NS 1000000000ull /* a C function that keeps the GIL is not hurried by this */
#define HURRY_STEPS 30
#define HURRY_STEP_MS 1

struct hurry {
    pid_t live;
    raddr_t control, interval;
};

static int set(const struct hurry *h, raddr_t at, uint64_t us)
{
    return mem_write(h->live, at, &us, sizeof(us));
}

/* Until the agent has the GIL, or is done with it: true, and the agent has brought back
 * the interval. Bounded; another process's memory gives no event. */
static bool wait_for_agent(const struct hurry *h, uint64_t since)
{
    uint64_t now = since;

    for (int i = 0; i < HURRY_STEPS && now == since; i++) {
        poll(NULL, 0, HURRY_STEP_MS);
        if (mem_read(h->live, h->control + offsetof(struct mp_control, gil_since_ns), &now, sizeof(now)) < 0)
            return false;
    }
    return now != since;
}

/* As the agent does: only what is still as we left it. */
static void bring_back(const struct hurry *h, uint64_t was)
{
    uint64_t us;

    if (mem_read(h->live, h->interval, &us, sizeof(us)) == 0 && us == MP_HURRY_US)
        (void)set(h, h->interval, was);
    (void)set(h, h->control + offsetof(struct mp_control, interval_was), 0);
}

/* A child that was forked meanwhile has the interval, too, and no thread of ours that
 * would bring it back. It is known by its copy of the control block. */
static void bring_back_in_children(const struct hurry *h, pid_t pid, const struct mp_control *c, uint64_t was)
{
    pid_t *pids;
    size_t i, n;

    if (proc_children(pid, &pids, &n) < 0)
        return;
    for (i = 0; i < n; i++) {
        struct hurry child = {.live = pids[i], .control = h->control, .interval = h->interval};
        struct mp_control copy;

        if (ours_read_control(child.live, child.control, &copy) == 0 && copy.pid == c->pid &&
            copy.agent_tid == c->agent_tid && copy.region_base == c->region_base && copy.interval_was == was)
            bring_back(&child, was);
    }
    free(pids);
}

bool inject_hurry(pid_t pid, const struct inject_agent *a, uint64_t *next_ns)
{
    struct hurry h = {.control = a->control_addr};
    uint64_t now = clock_mono_ns(), was;
    struct mp_control c;
    struct mp_boot b;

    if (now < *next_ns)
        return false;
    h.live = proc_live_task(pid);
    if (h.live < 0 || ours_read_control(h.live, h.control, &c) < 0 ||
        c.agent_tid != a->control.agent_tid || !c.gil_since_ns || now - c.gil_since_ns < HURRY_AFTER_NS ||
        now < c.gil_since_ns || c.state >= MP_STATE_GONE || inject_read_boot(pid, c.region_base, &b) < 0)
        return false;
    *next_ns = now + HURRY_AGAIN_NS;
    h.interval = b.switch_interval;
    if (!h.interval || mem_read(h.live, h.interval, &was, sizeof(was)) < 0 || was <= MP_HURRY_US ||
        was > MP_INTERVAL_MAX_US || set(&h, h.control + offsetof(struct mp_control, interval_was), was) < 0)
        return false;
    (void)FAULT_POINT("hurry", 0);
    if (set(&h, h.interval, MP_HURRY_US) < 0)
        return false;
    (void)FAULT_POINT("hurry", 1);
    if (wait_for_agent(&h, c.gil_since_ns))
        *next_ns = 0;
    bring_back(&h, was);
    bring_back_in_children(&h, pid, &c, was);
    return true;
}
