/* The ring of a thread: single producer (a hook on that thread, under the GIL),
 * single consumer (the agent). head and tail only grow; a record's place is its
 * number since `origin` modulo MP_RING_RECORDS. The producer never waits: no room,
 * one lost. When it finds the ring empty it moves the origin, and begins again with
 * the first page: no record is under way whose place that could change. */
#include "agent/agent.h"

#define RESTART_AFTER 64 /* records: more than a page of them */

struct mp_record *ring_reserve(struct thread *th)
{
    struct mp_record *r;

    if (unlikely(th->head - th->tail_seen >= MP_RING_RECORDS)) {
        th->tail_seen = load_acquire(&th->tail);
        if (th->head - th->tail_seen >= MP_RING_RECORDS) {
            th->lost++;
            return NULL;
        }
    }
    if (th->head - th->origin >= RESTART_AFTER && load_acquire(&th->tail) == th->head)
        th->origin = th->head;
    r = &th->ring[(th->head - th->origin) % MP_RING_RECORDS];
    thread_touch(th, r);
    thread_touch(th, (const char *)(r + 1) - 1);
    return r;
}

void ring_commit(struct thread *th)
{
    uint64_t one = 1;

    store_release(&th->head, th->head + 1);
    g.records++;
    /* A quarter full and the agent asleep: wake it. tail_seen is old, so this looks
     * at the true tail once every quarter at most. */
    if (unlikely(th->head - th->tail_seen >= MP_RING_RECORDS / 4) && g.sleeping) {
        th->tail_seen = load_acquire(&th->tail);
        if (th->head - th->tail_seen >= MP_RING_RECORDS / 4) {
            g.sleeping = 0;
            if (held_ours(MP_HELD_WAKE))
                sys_write(g.wake_fd, &one, sizeof(one));
        }
    }
}
