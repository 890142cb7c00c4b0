/* A result stream that can be given up (see output.h). */
#include "base/output.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"

/* poll(2) promises room for PIPE_BUF bytes in a pipe, not for more: larger
 * writes could block although POLLOUT was set. */
#define OUTPUT_CHUNK 4096
#define OUTPUT_GRACE_NS 1000000000ull
#define OUTPUT_BUFFER (256 << 10)

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

static ssize_t output_write(void *cookie, const char *buf, size_t len)
{
    struct output *o = cookie;
    size_t done = 0;

    while (done < len && !o->err) {
        size_t chunk = len - done < OUTPUT_CHUNK ? len - done : OUTPUT_CHUNK;
        ssize_t n;

        o->err = output_wait(o);
        if (o->err)
            break;
        n = write(o->fd, buf + done, chunk);
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

int output_open(struct output *o, const char *path, int wake_fd)
{
    cookie_io_functions_t io = {.write = output_write};
    bool own = path && strcmp(path, "-") != 0;
    int fd = own ? open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666) : STDOUT_FILENO;

    if (fd < 0)
        return -errno;
    *o = (struct output){.fd = fd, .owned = own, .wake_fd = wake_fd};
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
