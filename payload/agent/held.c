/* Our descriptors, each noted in the boot block with its identity, so that whoever
 * finds the block in a forked child can tell them from what the child has opened
 * under the same numbers since, and close them. */
#include "agent/agent.h"

#define FD_FLOOR 512 /* out of the way of targets that count on low ones */

struct identity { /* the head of struct stat */
    uint64_t dev, ino;
    uint64_t rest[16];
};

int held_take(enum mp_held_slot slot, int fd)
{
    struct mp_held *h = &g.boot->held[slot];
    struct identity id;
    long high;

    if (fd < 0)
        return fd;
    high = sys3(__NR_fcntl, fd, F_DUPFD_CLOEXEC, FD_FLOOR);
    if (high >= 0) {
        sys_close(fd);
        fd = (int)high;
    }
    if (sys3(__NR_fstat, fd, (long)&id, 0) < 0)
        return fd;
    h->fd = fd;
    h->dev = id.dev;
    store_release(&h->ino, id.ino);
    return fd;
}

int held_drop(enum mp_held_slot slot, int fd)
{
    sys_close(fd);
    g.boot->held[slot].ino = 0;
    return -1;
}

void held_close_copies(struct mp_boot *b)
{
    for (int i = 0; i < MP_HELD_COUNT; i++) {
        struct mp_held *h = &b->held[i];
        struct identity id;

        if (h->ino && sys3(__NR_fstat, h->fd, (long)&id, 0) == 0 && id.ino == h->ino && id.dev == h->dev)
            sys_close(h->fd);
        h->ino = 0;
    }
}
