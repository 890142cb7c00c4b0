/* An agent that is in a process already: found through the target's maps and
 * memory, without its help and without stopping anything. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/fault.h"
#include "inject/gather.h"
#include "inject/inject.h"
#include "inject/ours.h"
#include "target/maps.h"
#include "target/mem.h"
#include "target/proc.h"

/* Whether a thread of pid has this id in the process's own pid namespace: 1, 0, or -ENOMEM,
 * which says nothing of it. */
static int has_thread(pid_t pid, pid_t inner)
{
    pid_t *tids;
    size_t i, n;
    int found = 0, r = inner > 0 ? proc_tasks(pid, &tids, &n) : -ESRCH;
    if (r < 0)
        return r == -ENOMEM ? r : 0;
    for (i = 0; i < n && !found; i++) {
        struct proc_status s;
        r = proc_status_read(&s, pid, tids[i]);
        if (r == -ENOMEM)
            found = r;
        else
            found = r == 0 && s.state != 'Z' && s.state != 'X' && (s.ns_pid ? s.ns_pid : tids[i]) == inner;
    }
    free(tids);
    return found;
}

/* A forked child has its parent's pages and none of its threads; a thread of it
 * may by chance have the agent's number, but its own pid differs. As has_thread. */
static int is_alive(pid_t pid, const struct mp_control *c)
{
    struct proc_status s;
    int r = proc_status_read(&s, pid, 0);
    if (r < 0 || (s.ns_pid ? s.ns_pid : s.pid) != c->pid)
        return r == -ENOMEM ? r : 0;
    return has_thread(pid, c->agent_tid);
}

static int fail_abi(pid_t pid, const struct mp_control *c, struct mp_failure *f)
{
    return mp_fail(f, MP_E_ABI, 0, "process %d holds an agent of another mempulse (version %u, this is %u)",
                   (int)pid, c->abi, MP_ABI);
}

/* The agent behind one control block. 1, 0 when it left in this moment, -errno. */
static int read_agent(pid_t pid, pid_t live, raddr_t at, struct inject_agent *ret)
{
    struct inject_agent a = {.control_addr = at};
    int r = ours_read_control(live, at, &a.control), alive;
    if (r == -ENOENT || r == -EFAULT)
        return 0;
    if (r < 0 && r != -EPROTONOSUPPORT)
        return r;
    alive = is_alive(pid, &a.control);
    if (alive < 0) /* one that lives would be taken for a leftover */
        return alive;
    a.alive = alive;
    *ret = a;
    return r < 0 ? r : 1;
}

/* One that lives goes before those that a fork has copied. */
static int find_in(pid_t pid, pid_t live, struct inject_agent *ret, struct mp_failure *f)
{
    struct inject_agent a;
    struct maps maps;
    raddr_t addr;
    struct ours_walk walk = {0};
    int found = 0, r = maps_read(&maps, live);
    if (r < 0)
        return gather_refusal(pid, r, f);
    while (!(found && ret->alive) && ours_next_control(live, &maps, &walk, &addr)) {
        r = read_agent(pid, live, addr, &a);
        if (r < 0 && r != -EPROTONOSUPPORT) {
            found = found ? found : r;
            break;
        }
        if (r != 0 && (!found || a.alive)) {
            *ret = a;
            found = r;
        }
    }
    maps_release(&maps);
    if (found == -EPROTONOSUPPORT)
        return fail_abi(pid, &ret->control, f);
    return found < 0 ? gather_refusal(pid, found, f) : found;
}

int inject_find_agent(pid_t pid, struct inject_agent *ret, struct mp_failure *f)
{
    struct gather g;
    int r = 0, i;
    for (i = 0; i < PROC_LOOKS && r == 0; i++) {
        struct mp_failure look = {0};
        int fault = FAULT_POINT("find", 0);
        pid_t live = fault < 0 ? fault : proc_live_task(pid);
        r = live < 0 ? gather_refusal(pid, live, &look) : find_in(pid, live, ret, &look);
        if (r <= 0 && live > 0 && proc_task_lost(pid, live))
            r = 0;
        else if (r == 0)
            break;
        else if (r < 0 && f)
            *f = look;
    }
    if (r != 0)
        return r;
    /* "None" must mean that we could have seen one: maps may be readable where
     * memory is not, and a kernel thread has empty ones. */
    gather_process(&g, pid);
    return decide(&g.facts, DECIDE_ACCESS, f);
}

static int find_other_in(pid_t pid, pid_t live, int32_t agent_tid, struct inject_agent *ret)
{
    struct maps maps;
    raddr_t addr;
    struct ours_walk walk = {0};
    int found = 0, r = live < 0 ? live : maps_read(&maps, live);
    if (r < 0)
        return r == -ENOMEM ? r : 0;
    while (!found && ours_next_control(live, &maps, &walk, &addr)) {
        struct inject_agent a = {.control_addr = addr};
        if (ours_read_control(live, addr, &a.control) < 0 || a.control.agent_tid == agent_tid ||
            a.control.state >= MP_STATE_GONE || (found = is_alive(pid, &a.control)) <= 0)
            continue;
        a.alive = true;
        *ret = a;
    }
    maps_release(&maps);
    return found;
}

int inject_find_other(pid_t pid, int32_t agent_tid, struct inject_agent *ret)
{
    int found = 0, i;
    for (i = 0; i < PROC_LOOKS && !found; i++) {
        pid_t live = proc_live_task(pid);
        found = find_other_in(pid, live, agent_tid, ret);
        if (!proc_task_lost(pid, live))
            break;
    }
    return found;
}

/* The beginning of an agent's image. */
static bool is_image(const struct maps_entry *e)
{
    return !e->offset && !strncmp(e->name, "/memfd:" MP_AGENT_NAME, sizeof("/memfd:" MP_AGENT_NAME) - 1);
}

bool inject_agent_at_work(pid_t pid, pid_t live, const struct maps *m)
{
    struct ours_walk walk = {0};
    struct mp_control c;
    size_t i, images = 0, idle = 0;
    raddr_t addr;
    for (i = 0; i < m->count; i++)
        images += is_image(&m->entry[i]);
    while (ours_next_control(live, m, &walk, &addr))
        idle += ours_read_control(live, addr, &c) == 0 && (c.state >= MP_STATE_GONE || is_alive(pid, &c) == 0);
    return idle < images;
}

bool inject_session_gone(pid_t pid, uint64_t region_base, int32_t agent_tid)
{
    struct mp_boot b;
    /* The region goes last, after thread and agent; its place may be another's by now. */
    return has_thread(pid, agent_tid) == 0 &&
           (inject_read_boot(pid, region_base, &b) < 0 || b.worker_tid != agent_tid);
}

static int fail_left(pid_t pid, struct mp_failure *f)
{
    return mp_fail(f, MP_E_NOT_INJECTED, 0, "the agent has left process %d meanwhile", (int)pid);
}

int inject_request_detach(pid_t pid, const struct inject_agent *a, struct mp_failure *f)
{
    const uint32_t now = 1;
    struct mp_control c;
    pid_t live = proc_live_task(pid);
    int r;
    if (live < 0)
        return gather_refusal(pid, live, f);
    /* The address is worth writing to only while the same agent is behind it. */
    r = ours_read_control(live, a->control_addr, &c);
    if (r == -ENOENT || r == -EFAULT || (r == 0 && (c.pid != a->control.pid || c.agent_tid != a->control.agent_tid)))
        return fail_left(pid, f);
    if (r == -EPROTONOSUPPORT)
        return fail_abi(pid, &c, f);
    if (r < 0)
        return gather_refusal(pid, r, f);
    if (!a->alive)
        return mp_fail(f, MP_E_RESIDUE, 0, "the agent in process %d does not run any more", (int)pid);
    r = FAULT_POINT("leave", 0);
    if (r == 0)
        r = mem_write(live, a->control_addr + offsetof(struct mp_control, detach_request), &now, sizeof(now));
    (void)FAULT_POINT("leave", 1);
    if (r == -EFAULT) /* between the two */
        return fail_left(pid, f);
    return r < 0 ? gather_refusal(pid, r, f) : 0;
}

int inject_ack_detach(pid_t pid, const struct inject_agent *a)
{
    const uint32_t now = 1;
    struct mp_control c;
    pid_t live = proc_live_task(pid);
    int r;
    if (live < 0)
        return 0;
    /* Gone meanwhile, or another one: there is nobody to tell. */
    r = ours_read_control(live, a->control_addr, &c);
    if (r < 0 || c.agent_tid != a->control.agent_tid)
        return 0;
    r = FAULT_POINT("leave", 2);
    if (r == 0)
        r = mem_write(live, a->control_addr + offsetof(struct mp_control, detach_ack), &now, sizeof(now));
    (void)FAULT_POINT("leave", 3);
    return r == -EPERM ? -(int)MP_E_EPERM : 0;
}

int inject_read_boot(pid_t pid, uint64_t region_base, struct mp_boot *ret_boot)
{
    struct mp_boot b;
    pid_t live = proc_live_task(pid);
    int r = live < 0 ? live : mem_read(live, region_base + MP_BOOT_OFF, &b, sizeof(b));
    if (r < 0)
        return r;
    if (b.magic != MP_BOOT_MAGIC || b.abi != MP_ABI || b.size != sizeof(b))
        return -ENOENT;
    b.error_text[sizeof(b.error_text) - 1] = '\0';
    *ret_boot = b;
    return 0;
}
