/* A result stream that can be given up (see output.h). */
#include "base/output.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/clock.h"

/* poll(2) promises room for PIPE_BUF bytes in a pipe, not for more: larger
 * writes could block although POLLOUT was set. */
#define OUTPUT_CHUNK 4096
#define OUTPUT_GRACE_NS 1000000000ull
#define OUTPUT_BUFFER (256 << 10)
#define OUTPUT_STEP_MS 20 /* open(2) of a FIFO gives no event for its reader's coming */
#define OUTPUT_TRIES 8

static bool output_expired(struct output *o)
{
    uint64_t now = clock_mono_ns();

    if (!o->give_up_ns && o->end_ns && now >= o->end_ns)
        o->give_up_ns = now + OUTPUT_GRACE_NS;
    return o->give_up_ns && now >= o->give_up_ns;
}

/* Waits until fd takes bytes. 0, or a positive errno. */
static int output_wait(struct output *o)
{
    for (;;) {
        struct pollfd p[2] = {{o->fd, POLLOUT, 0}, {o->give_up_ns ? -1 : o->wake_fd, POLLIN, 0}};
        int n = poll(p, 2, 100);

        if (n < 0 && errno != EINTR)
            return errno;
        if (p[0].revents & POLLERR)
            return EPIPE;
        if (p[0].revents)
            return 0;
        if (p[1].revents)
            o->give_up_ns = clock_mono_ns() + OUTPUT_GRACE_NS;
        if (output_expired(o))
            return ETIMEDOUT;
    }
}

/* Writes what there is room for, and waits for room where there is none. As many bytes, or
 * -1 with errno, EAGAIN when there was nothing to wait for after all. */
static ssize_t output_some(struct output *o, const char *buf, size_t len)
{
    struct iovec all = {(void *)(uintptr_t)buf, len};
    ssize_t n;

    if (o->plain)
        return write(o->fd, buf, len);
    if (!o->chunked) { /* pipes from Linux 6.4 on, sockets: as much as they take */
        n = pwritev2(o->fd, &all, 1, -1, RWF_NOWAIT);
        if (n >= 0 || (errno != EAGAIN && errno != EOPNOTSUPP && errno != ENOSYS && errno != EINVAL))
            return n;
        o->chunked = errno != EAGAIN;
    }
    errno = output_wait(o);
    if (errno)
        return -1;
    if (!o->chunked) {
        errno = EAGAIN; /* there is room now */
        return -1;
    }
    return write(o->fd, buf, len < OUTPUT_CHUNK ? len : OUTPUT_CHUNK);
}

static ssize_t output_write(void *cookie, const char *buf, size_t len)
{
    struct output *o = cookie;
    size_t done = 0;

    while (done < len && !o->err) {
        ssize_t n = output_some(o, buf + done, len - done);

        if (n >= 0)
            done += (size_t)n;
        else if (errno != EINTR && errno != EAGAIN)
            o->err = errno;
    }
    o->dropped += len - done;
    if (!o->err)
        return (ssize_t)len;
    errno = o->err;
    return 0; /* fopencookie(3): an error is 0, not -1 */
}

/* Whether others than its owner may put things into the folder that path's last part is in. */
static bool output_folder_is_shared(const char *path, struct stat *ret)
{
    char *copy = strdup(path), *slash = copy ? strrchr(copy, '/') : NULL;
    bool shared = true;

    if (slash)
        slash[slash == copy] = 0;
    if (copy && stat(slash ? copy : ".", ret) == 0)
        shared = (ret->st_mode & S_IWOTH) || ((ret->st_mode & S_ISVTX) && (ret->st_mode & S_IWGRP));
    free(copy);
    return shared;
}

/* Waits until somebody reads a FIFO, or lets go of a lease: fd or -errno, -EINTR when woken. */
static int output_open_wait(const char *path, int flags, int wake_fd)
{
    for (;;) {
        struct pollfd wake = {wake_fd, POLLIN, 0};
        int fd = open(path, flags | O_NONBLOCK, 0666);
        struct stat st;

        if (fd >= 0)
            return fd;
        if (errno != EAGAIN && !(errno == ENXIO && stat(path, &st) == 0 && S_ISFIFO(st.st_mode)))
            return -errno;
        if (poll(&wake, 1, OUTPUT_STEP_MS) > 0)
            return -EINTR;
    }
}

/* What lies there already. In a folder like /tmp another user may have put a link or a
 * FIFO under the name that we were given, so that we would write, as root perhaps, into
 * a file of that user's choice: as with fs.protected_symlinks and its kin (proc(5)), which
 * not every system has on. What is looked at is what is opened (O_PATH), links aside,
 * whose owner alone can change them there. */
static int output_open_there(const char *path, int wake_fd)
{
    const int flags = O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOCTTY;
    struct stat st, folder;
    char pinned[64];
    int fd, at = open(path, O_PATH | O_NOFOLLOW | O_CLOEXEC);

    if (at < 0)
        return -errno;
    if (fstat(at, &st)) {
        fd = -errno;
    } else if (st.st_uid != geteuid() && output_folder_is_shared(path, &folder) && st.st_uid != folder.st_uid) {
        fd = -EXDEV;
    } else if (S_ISLNK(st.st_mode)) {
        fd = output_open_wait(path, flags, wake_fd);
    } else {
        snprintf(pinned, sizeof(pinned), "/proc/self/fd/%d", at);
        fd = output_open_wait(pinned, flags & ~O_CREAT, wake_fd);
    }
    close(at);
    return fd;
}

static int output_open_path(const char *path, int wake_fd)
{
    for (int tries = 0; tries < OUTPUT_TRIES; tries++) { /* what was there may have gone again */
        int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);

        if (fd >= 0 || errno != EEXIST)
            return fd >= 0 ? fd : -errno;
        fd = output_open_there(path, wake_fd);
        if (fd != -ENOENT)
            return fd;
    }
    return -ENOENT;
}

int output_open(struct output *o, const char *path, int wake_fd)
{
    cookie_io_functions_t io = {.write = output_write};
    bool own = path && strcmp(path, "-") != 0;
    int fd = own ? output_open_path(path, wake_fd) : STDOUT_FILENO;
    struct stat st;

    if (fd < 0)
        return fd;
    *o = (struct output){.fd = fd, .owned = own, .wake_fd = wake_fd};
    if (fstat(fd, &st) == 0) {
        o->plain = S_ISREG(st.st_mode);
        o->chunked = !S_ISFIFO(st.st_mode) && !S_ISSOCK(st.st_mode);
    }
    o->file = fopencookie(o, "w", io);
    if (!o->file) {
        if (own)
            close(fd);
        return -ENOMEM;
    }
    setvbuf(o->file, NULL, _IOFBF, OUTPUT_BUFFER);
    return 0;
}

int output_flush(struct output *o)
{
    if (o->file && fflush(o->file) && !o->err)
        o->err = errno ? errno : EIO;
    return -o->err;
}

int output_close(struct output *o)
{
    int err = output_flush(o);

    if (o->file)
        fclose(o->file);
    o->file = NULL;
    if (o->owned && o->fd >= 0 && close(o->fd) && !err)
        err = -errno; /* NFS and quotas report a full disk here */
    o->owned = false;
    o->fd = -1;
    return err;
}
