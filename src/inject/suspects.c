#include "inject/suspects.h"

#include <stdint.h>
#include <stdlib.h>

#include "target/proc.h"

#define LIBC_SIGNALS (3ull << 31)         /* SIGCANCEL, SIGSETXID, which the loader does not block */

enum verdict { GONE, INNOCENT, SUSPECT };

/* waiting_too: one that waits in a system call may still be ours. */
static enum verdict look_at(pid_t pid, pid_t tid, bool waiting_too)
{
    struct proc_syscall sc;
    struct proc_status st;
    if (proc_syscall_read(&sc, pid, tid) < 0)
        return GONE;
    if (!sc.running && !waiting_too)
        return INNOCENT;
    if (proc_status_read(&st, pid, tid) < 0)
        return GONE;
    return (st.sig_blocked | LIBC_SIGNALS) == PROC_ALL_BLOCKED ? SUSPECT : INNOCENT;
}

/* Those known so far, once more. Whether one has ended. */
static bool look_again(struct suspects *s, pid_t pid)
{
    size_t kept = 0;
    bool gone = false;
    for (size_t i = 0; i < s->count; i++) {
        enum verdict v = look_at(pid, s->tid[i], !s->unused);
        gone |= v == GONE;
        if (v == SUSPECT)
            s->tid[kept++] = s->tid[i];
    }
    s->count = kept;
    return gone;
}

static bool is_known(const struct suspects *s, pid_t tid)
{
    for (size_t i = 0; i < s->count; i++)
        if (s->tid[i] == tid)
            return true;
    return false;
}

/* Adds those that are new. False: they can't be told, or are too many. */
static bool look_for(struct suspects *s, pid_t pid)
{
    pid_t *tids;
    size_t n;
    bool room = true;
    if (proc_tasks(pid, &tids, &n) < 0)
        return false;
    for (size_t i = 0; i < n && room; i++) {
        if (is_known(s, tids[i]) || look_at(pid, tids[i], false) != SUSPECT)
            continue;
        room = s->count < SUSPECTS_MAX;
        if (room)
            s->tid[s->count++] = tids[i];
    }
    free(tids);
    return room;
}

void suspects_look(struct suspects *s, pid_t pid)
{
    bool gone = look_again(s, pid), known = true;
    if (!s->unused || !s->begun)
        known = s->begun = look_for(s, pid);
    s->calm = known && s->count == 0 && (s->unused || !gone) ? s->calm + 1 : 0;
}
