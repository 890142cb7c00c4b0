/* Descriptors of the target, fetched. See channel.h. */
#include "inject/channel.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/fault.h"

#define CHANNEL_PIDFD_THREAD O_EXCL     /* PIDFD_THREAD, 6.9 */
#define CHANNEL_PIPEFS 0x50495045       /* PIPEFS_MAGIC, linux/magic.h */
#define CHANNEL_PIPE_SIZE (256 << 10)   /* of the agent's stream: as much as it gathers itself */

/* --- pidfd_getfd ------------------------------------------------------------------- */

static int getfd(int pidfd, int fd)
{
    int got = pidfd < 0 ? -1 : (int)syscall(SYS_pidfd_getfd, pidfd, fd, 0);
    return got >= 0 ? got : pidfd < 0 ? pidfd : -errno;
}

static int thread_pidfd(pid_t tid)
{
    int fd = (int)syscall(SYS_pidfd_open, tid, CHANNEL_PIDFD_THREAD);
    return fd < 0 ? -errno : fd;
}

int channel_judge(int err)
{
    return err == EBADF ? 0 : err ? -err : -EPROTO;
}

/* pidfd_getfd looks into the leader's table, which is empty once the leader has
 * ended: the thread's own pidfd has to serve then, from 6.9 on. */
int channel_probe(pid_t pid, pid_t live, int pidfd)
{
    if (pidfd < 0)
        return pidfd;
    int thread = live == pid ? -1 : thread_pidfd(live);
    if (live != pid && thread < 0)
        return thread;
    int got = getfd(thread < 0 ? pidfd : thread, -1);
    if (thread >= 0)
        close(thread);
    return channel_judge(got < 0 ? -got : 0);
}

static int copy_any(pid_t tid, int pidfd, int fd)
{
    int got = getfd(pidfd, fd);
    if (got >= 0)
        return got;
    int thread = thread_pidfd(tid), again = getfd(thread, fd);
    if (thread >= 0)
        close(thread);
    return again >= 0 ? again : got;
}

static bool is_noted(int fd, const struct mp_held *noted)
{
    struct stat st;
    return !noted->ino || (fstat(fd, &st) == 0 && st.st_ino == noted->ino && st.st_dev == noted->dev);
}

/* A copy of the target's descriptor, CLOEXEC at birth. fd or -errno; -EPROTO when it
 * is not what the loader noted: the target's other threads run, and one may have
 * closed it and opened another file, which is not to be written into. What was noted
 * lies in the target's memory, so `is` tells whether it is of the right kind at all: a
 * FIFO or a terminal would make us wait, a device would take our bytes for orders. */
static int copy(pid_t tid, int pidfd, int fd, const struct mp_held *noted, bool (*is)(int fd))
{
    int got = copy_any(tid, pidfd, fd);
    if (got < 0)
        return got;
    if (is_noted(got, noted) && is(got))
        return got;
    close(got);
    return -EPROTO;
}

static bool is_socket(int fd)
{
    int domain = 0, type = 0;
    socklen_t domain_len = sizeof domain, type_len = sizeof type;
    return getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &domain_len) == 0 && domain == AF_UNIX &&
           getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &type_len) == 0 && type == SOCK_STREAM;
}

/* An empty file that no folder has. Of a copy that is enough: it lets us do no more than
 * the target may. */
static bool is_nameless(int fd)
{
    struct stat st;
    return fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_nlink == 0 && st.st_size == 0;
}

/* --- through /proc ------------------------------------------------------------------ *
 * The target's other threads run, and may put another file under the number: to open
 * a device has effects, and to write as root into what the target may only read would
 * be its way to do so. So the file is pinned (O_PATH opens nothing), looked at, and
 * only then opened, by way of the pin. */

static int pin(pid_t tid, int fd)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/fd/%d", (int)tid, fd);
    int got = open(path, O_PATH | O_CLOEXEC);
    return got < 0 ? -errno : got;
}

/* Opens what is pinned, and lets go of the pin. */
static int open_pinned(int pinned, int flags)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", pinned);
    int fd = open(path, flags | O_CLOEXEC | O_NOCTTY), err = errno;
    close(pinned);
    return fd < 0 ? -err : fd;
}

/* A pipe without a name: a FIFO of some directory is on another file system. */
static bool is_pipe(int pinned)
{
    struct stat st;
    struct statfs fs;
    return fstat(pinned, &st) == 0 && S_ISFIFO(st.st_mode) && fstatfs(pinned, &fs) == 0 && fs.f_type == CHANNEL_PIPEFS;
}

/* Any other pipe of the target's is somebody else's: what we read there would be missing to
 * its reader. */
static int open_pipe(pid_t tid, int fd, const struct mp_held *noted, int flags)
{
    int pinned = pin(tid, fd);
    if (pinned < 0)
        return pinned;
    if (!is_pipe(pinned) || !is_noted(pinned, noted)) {
        close(pinned);
        return -EPROTO;
    }
    return open_pinned(pinned, flags | O_NONBLOCK);
}

/* An empty memfd. All memfds lie on one mount of the kernel's that has no path
 * (mm/shmem.c, shm_mnt): one of our own tells which. */
static bool is_memfd(int pinned)
{
    struct stat st, own;
    int fd = memfd_create("mempulse-probe", MFD_CLOEXEC);
    bool known = fd >= 0 && fstat(fd, &own) == 0;
    if (fd >= 0)
        close(fd);
    return known && is_nameless(pinned) && fstat(pinned, &st) == 0 && st.st_dev == own.st_dev;
}

/* --- both ------------------------------------------------------------------------------ */

static int take_pipes(struct channel *ret, pid_t tid, const struct mp_boot *b)
{
    int in = open_pipe(tid, b->agent_out, &b->held[MP_HELD_OUT], O_RDONLY);
    if (in < 0)
        return in;
    int out = open_pipe(tid, b->agent_fd, &b->held[MP_HELD_IN], O_WRONLY);
    if (out < 0) {
        close(in);
        return out;
    }
    /* More room, fewer wake-ups; a refusal costs no more than these. */
    (void)!fcntl(in, F_SETPIPE_SZ, CHANNEL_PIPE_SIZE);
    *ret = (struct channel){in, out};
    return 0;
}

int channel_take(struct channel *ret, pid_t tid, int pidfd, const struct mp_boot *b)
{
    int fault = FAULT_POINT("channel", 0);
    if (fault)
        return fault;
    if (b->channel == MP_CHANNEL_PIPES)
        return take_pipes(ret, tid, b);
    int fd = copy(tid, pidfd, b->launcher_fd, &b->held[MP_HELD_LAUNCHER], is_socket);
    if (fd < 0)
        return fd;
    *ret = (struct channel){fd, fd};
    return 0;
}

int channel_go(const struct channel *c)
{
    ssize_t n = send(c->out, "G", 1, MSG_DONTWAIT | MSG_NOSIGNAL);
    /* write(2): our signals are blocked here (borrow_run), so that SIGPIPE ends with the thread. */
    if (n < 0 && errno == ENOTSOCK)
        n = write(c->out, "G", 1);
    return n == 1 ? 0 : n < 0 ? -errno : -EPIPE;
}

void channel_close(struct channel *c)
{
    if (c->in >= 0)
        close(c->in);
    if (c->out >= 0 && c->out != c->in)
        close(c->out);
    *c = (struct channel){-1, -1};
}

int channel_memfd(pid_t tid, int pidfd, const struct mp_boot *b)
{
    if (b->channel == MP_CHANNEL_SOCKET)
        return copy(tid, pidfd, b->memfd, &b->held[MP_HELD_MEMFD], is_nameless);
    int pinned = pin(tid, b->memfd);
    if (pinned < 0)
        return pinned;
    if (!is_memfd(pinned) || !is_noted(pinned, &b->held[MP_HELD_MEMFD])) {
        close(pinned);
        return -EPROTO;
    }
    return open_pinned(pinned, O_WRONLY);
}
