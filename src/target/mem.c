/* Reading (and one word of writing) in a process from outside.
 *
 * process_vm_readv is one call and needs no descriptor, but a seccomp filter
 * around the launcher may forbid it (Docker before 19.03) and kernels can be
 * built without it; /proc/PID/mem answers then. Both stop at the first page that
 * cannot be read. */
#include "target/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

enum { MEM_PAGE = 4096 };

/* What a single request moves: process_vm_readv caps one call at MAX_RW_COUNT. */
static const size_t chunk_max = 64u << 20;

static int mem_open(pid_t pid, int flags)
{
    char path[64];
    int fd;
    snprintf(path, sizeof(path), "/proc/%d/mem", (int)pid);
    fd = open(path, flags | O_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

/* pread and pwrite take a signed offset: the upper half of the address space
 * (vsyscall) is out of reach this way, and nothing of interest is there. */
static ssize_t file_transfer(pid_t pid, raddr_t at, void *buf, size_t len, bool writing)
{
    ssize_t n;
    int fd, err;
    if (at > (raddr_t)INT64_MAX - len)
        return -EFAULT;
    fd = mem_open(pid, writing ? O_WRONLY : O_RDONLY);
    if (fd < 0)
        return fd;
    n = writing ? pwrite(fd, buf, len, (off_t)at) : pread(fd, buf, len, (off_t)at);
    err = errno;
    close(fd);
    if (n < 0)
        return err == EIO ? -EFAULT : -err; /* /proc/PID/mem says EIO for an unmapped page */
    return n;
}

/* One request, at most chunk_max; the number moved (0 counts as a fault). */
static ssize_t transfer(pid_t pid, raddr_t at, void *buf, size_t len, bool writing)
{
    struct iovec local = {buf, len < chunk_max ? len : chunk_max};
    struct iovec remote = {(void *)(uintptr_t)at, local.iov_len};
    ssize_t n = writing ? process_vm_writev(pid, &local, 1, &remote, 1, 0)
                        : process_vm_readv(pid, &local, 1, &remote, 1, 0);
    if (n < 0 && (errno == ENOSYS || errno == EPERM))
        n = file_transfer(pid, at, buf, local.iov_len, writing);
    else if (n < 0)
        n = -errno;
    return n ? n : -EFAULT;
}

static ssize_t transfer_all(pid_t pid, raddr_t at, void *buf, size_t len, bool writing)
{
    size_t done = 0;
    while (done < len) {
        ssize_t n = transfer(pid, at + done, (char *)buf + done, len - done, writing);
        if (n < 0)
            return done ? (ssize_t)done : n;
        done += (size_t)n;
    }
    return (ssize_t)done;
}

ssize_t mem_read_some(pid_t pid, raddr_t at, void *ret_buf, size_t len)
{
    if (!len)
        return 0;
    if (at + len < at)
        return -EFAULT;
    return transfer_all(pid, at, ret_buf, len, false);
}

int mem_read(pid_t pid, raddr_t at, void *ret_buf, size_t len)
{
    ssize_t n = mem_read_some(pid, at, ret_buf, len);
    if (n < 0)
        return (int)n;
    return (size_t)n == len ? 0 : -EFAULT;
}

int mem_write(pid_t pid, raddr_t at, const void *buf, size_t len)
{
    ssize_t n;
    if (at + len < at)
        return -EFAULT;
    n = len ? transfer_all(pid, at, (void *)(uintptr_t)buf, len, true) : 0;
    if (n < 0)
        return (int)n;
    return (size_t)n == len ? 0 : -EFAULT;
}

ssize_t mem_read_string(pid_t pid, raddr_t at, char *ret_buf, size_t size)
{
    size_t done = 0;
    if (!size)
        return -ENAMETOOLONG;
    ret_buf[0] = '\0';
    while (done < size) {
        size_t step = MEM_PAGE - (size_t)((at + done) % MEM_PAGE); /* never ask beyond the page in hand */
        const char *nul;
        int r;
        if (step > size - done)
            step = size - done;
        r = mem_read(pid, at + done, ret_buf + done, step);
        if (r < 0) {
            ret_buf[done] = '\0';
            return r;
        }
        nul = memchr(ret_buf + done, '\0', step);
        if (nul)
            return nul - ret_buf;
        done += step;
    }
    ret_buf[size - 1] = '\0';
    return -ENAMETOOLONG;
}
