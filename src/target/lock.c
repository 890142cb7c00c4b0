/* The lock of a target (see lock.h). */
#include "target/lock.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>

#include "target/proc.h"

/* /proc/PID and /proc/TID are two inodes of one process: all must mean the same. */
static pid_t lock_process(pid_t pid)
{
    struct proc_status s;
    return proc_status_read(&s, pid, 0) == 0 && s.tgid > 0 ? s.tgid : pid;
}

int lock_open(pid_t pid)
{
    char path[64];
    pid_t live;
    int fd;
    pid = lock_process(pid);
    snprintf(path, sizeof(path), "/proc/%d/mem", (int)pid);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd >= 0 || errno != ESRCH)
        return fd >= 0 ? fd : errno == ENOENT ? -ESRCH : -errno;
    /* A leader that has ended has no memory, from some kernel on not even an empty file. */
    live = proc_live_task(pid);
    if (live < 0)
        return (int)live;
    snprintf(path, sizeof(path), "/proc/%d/task/%d/mem", (int)pid, (int)live);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    return fd >= 0 ? fd : errno == ENOENT ? -ESRCH : -errno;
}

int lock_try(int fd)
{
    int r;
    do
        r = flock(fd, LOCK_EX | LOCK_NB);
    while (r < 0 && errno == EINTR);
    return r == 0 ? 1 : errno == EWOULDBLOCK ? 0 : -errno;
}

/* Lines of proc_locks(5): "1: FLOCK  ADVISORY  WRITE 21224 00:15:1871483 0 EOF"; a
 * waiting one has an arrow behind its number. Holders have an inode of their own, so
 * that the device need not be compared (its numbers differ from stat's on some file
 * systems), only the kind. */
pid_t lock_holder_parse(char *text, uint64_t inode)
{
    char *line, *next = text;
    while ((line = strsep(&next, "\n"))) {
        int pid;
        uint64_t of;
        if (sscanf(line, "%*d: FLOCK %*s %*s %d %*x:%*x:%" SCNu64, &pid, &of) == 2 && of == inode && pid > 0)
            return (pid_t)pid;
    }
    return 0;
}

pid_t lock_holder(int fd)
{
    struct stat st;
    char *text;
    size_t len;
    pid_t found;
    if (fstat(fd, &st) < 0 || proc_read_path("/proc/locks", &text, &len) < 0)
        return 0;
    found = lock_holder_parse(text, st.st_ino);
    free(text);
    return found;
}
