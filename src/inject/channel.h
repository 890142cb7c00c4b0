/* The launcher's way to descriptors that the loader made in the target: its end
 * of the channel, and the memfd that takes the agent's image.
 *
 *   MP_CHANNEL_SOCKET  pidfd_getfd(2) copies them. The default.
 *   MP_CHANNEL_PIPES   where the launcher may not (before 5.6, or a policy): two
 *                      pipes, opened through /proc/TID/fd. The kernel opens those
 *                      links only for whom it lets read the target's memory, and a
 *                      pipe only for its owner, the target's user, and root: there
 *                      is no name, nobody to wait for, and nothing to be proven. */
#ifndef MP_CHANNEL_H
#define MP_CHANNEL_H

#include <stdbool.h>
#include <sys/types.h>

#include "base/err.h"
#include "boot.h"

/* The launcher's end, CLOEXEC. Pipes: non-blocking. A socket: one descriptor in both,
 * used with MSG_DONTWAIT, since the target shares its flags and may have a copy of it. */
struct channel {
    int in, out;
};

/* Whether descriptors can be copied from pid, of which live is a thread that has
 * memory, and pidfd is a pidfd or a negative errno. Copies none. 0, or -errno that
 * says why not (-ENOSYS, -EPERM, ...). */
int channel_probe(pid_t pid, pid_t live, int pidfd) MP_MUST_CHECK;

/* The answer to copying descriptor -1, which nobody has: an errno, or 0. Pure. */
int channel_judge(int err) MP_MUST_CHECK;

/* Takes the launcher's end. tid: the raw thread, stopped. 0, or -errno with *ret
 * untouched (-EPROTO: what lies under the number is not what the loader made). */
int channel_take(struct channel *ret, pid_t tid, int pidfd, const struct mp_boot *b) MP_MUST_CHECK;
void channel_close(struct channel *c);

/* The byte on which the loader goes on. Never waits. 0, -EPIPE when it has gone, -errno. */
int channel_go(const struct channel *c) MP_MUST_CHECK;

/* The memfd, to be written to. A descriptor or -errno, as channel_take. */
int channel_memfd(pid_t tid, int pidfd, const struct mp_boot *b) MP_MUST_CHECK;

#endif
