/* Waiting for one's turn (see cmd_lock.h). */
#include "cmd_lock.h"

#include <poll.h>
#include <unistd.h>

#include "base/clock.h"
#include "target/lock.h"

#define STEP_MS 5             /* flock(2) gives no event that could be waited for beside a signal */
#define SAY_AFTER_NS 300000000ull

static int lock_failed(pid_t pid, int fd, bool woken, struct mp_failure *f)
{
    pid_t holder = lock_holder(fd);

    if (woken)
        return mp_fail(f, MP_E_INTERRUPTED, 0, "interrupted while another mempulse was at work in process %d", (int)pid);
    if (holder)
        return mp_fail(f, MP_E_BUSY_MEMPULSE, 0, "another mempulse (process %d) is at work in process %d", (int)holder, (int)pid);
    return mp_fail(f, MP_E_BUSY_MEMPULSE, 0, "another mempulse is at work in process %d", (int)pid);
}

int cmd_lock(const struct talk *t, pid_t pid, uint64_t deadline_ns, int wake_fd, int *ret_fd, struct mp_failure *f)
{
    uint64_t begin = clock_mono_ns(), now;
    struct pollfd wake = {wake_fd, POLLIN, 0};
    int fd = lock_open(pid), got;
    bool said = false, woken;

    for (;;) {
        got = fd < 0 ? fd : lock_try(fd);
        if (got != 0)
            break;
        now = clock_mono_ns();
        if (!said && now - begin >= SAY_AFTER_NS) {
            cmd_say(t, "another mempulse is at work in process %d; waiting for it to finish", (int)pid);
            said = true;
        }
        woken = poll(&wake, 1, STEP_MS) > 0;
        if (woken || now >= deadline_ns) {
            got = lock_failed(pid, fd, woken, f);
            close(fd);
            return got;
        }
    }
    if (got < 0)
        cmd_unlock(&fd);
    *ret_fd = fd < 0 ? -1 : fd;
    return 0;
}

int cmd_lock_now(pid_t pid)
{
    int fd = lock_open(pid);

    if (fd >= 0 && lock_try(fd) != 1)
        cmd_unlock(&fd);
    return fd < 0 ? -1 : fd;
}

void cmd_unlock(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}
