/* Our descriptors, each noted in the boot block with its identity: the target can close
 * them, and open others under the same numbers, here (closerange(3, 65536) is a habit of
 * daemons) and in a forked child. Nothing is written to, read from where reading takes
 * something away, or closed that is not ours by a look right before.
 * The race that is left: between that look and the system call after it, some 100 ns, a
 * thread of the target may close ours and get the same number for a file of its own. To
 * get it by chance it must have all numbers below in use, or name it in a dup2. The look
 * does not tell our statm from one that the target itself opened: same inode. */
#include "agent/agent.h"

#define FD_FLOOR 512 /* out of the way of targets that count on low ones */

struct identity { /* the head of struct stat */
    uint64_t dev, ino;
    uint64_t rest[16];
};

static bool is_ours(const struct mp_held *h)
{
    struct identity id;

    return sys3(__NR_fstat, h->fd, (long)&id, 0) == 0 && id.ino == h->ino && id.dev == h->dev;
}

/* What could not be noted (fstat refused, by a filter say) has to be trusted. */
bool held_ours(enum mp_held_slot slot)
{
    struct mp_held *h = &g.boot->held[slot];

    if (!h->ino || h->closed || is_ours(h))
        return true;
    h->fd = -1; /* for good: ino stays, so that the slot counts as noted */
    __atomic_fetch_or(&mp_control_block.cut, 1u << slot, __ATOMIC_RELAXED);
    return false;
}

bool held_all(void)
{
    for (int i = 0; i < MP_HELD_COUNT; i++)
        held_ours((enum mp_held_slot)i);
    return !mp_control_block.cut;
}

int held_take(enum mp_held_slot slot, int fd)
{
    struct mp_held *h = &g.boot->held[slot];
    struct identity id;
    long high;

    if (fd < 0)
        return fd;
    if (!held_ours(slot)) /* the loader's note */
        return -1;
    high = sys3(__NR_fcntl, fd, F_DUPFD_CLOEXEC, FD_FLOOR);
    if (high >= 0) {
        sys_close(fd);
        fd = (int)high;
    }
    if (sys3(__NR_fstat, fd, (long)&id, 0) < 0)
        return fd;
    store_release(&h->ino, 0); /* a slot is used again by who opens its file anew */
    h->fd = fd;
    h->dev = id.dev;
    h->closed = 0;
    store_release(&h->ino, id.ino);
    return fd;
}

int held_drop(enum mp_held_slot slot, int fd)
{
    if (!held_ours(slot))
        return -1;
    sys_close(fd);
    g.boot->held[slot].closed = 1;
    return -1;
}

void held_close_copies(struct mp_boot *b)
{
    for (int i = 0; i < MP_HELD_COUNT; i++) {
        struct mp_held *h = &b->held[i];

        if (h->ino && is_ours(h))
            sys_close(h->fd);
        h->closed = 1;
    }
}
