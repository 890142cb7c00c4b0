/* The kernel, without libc: raw system calls and the few kernel structures that
 * the agent uses. Every wrapper returns what the kernel returns, -errno on
 * failure; none touches errno of the target's libc. Constants come from the
 * kernel's own headers' values (x86-64) and are spelled out here because a
 * freestanding build has no <sys/...>. */
#ifndef AGENT_SYS_H
#define AGENT_SYS_H

#include <asm/unistd.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SYS_EINTR 4
#define SYS_EAGAIN 11
#define SYS_ENOMEM 12
#define SYS_ESRCH 3

#define PROT_READ 1
#define PROT_WRITE 2
#define PROT_EXEC 4
#define MAP_PRIVATE 2
#define MAP_ANONYMOUS 0x20
#define MAP_POPULATE 0x8000
#define MADV_DONTNEED 4
#define MADV_DONTFORK 10
#define MADV_NOHUGEPAGE 15
#define MADV_WIPEONFORK 18
#define PR_SET_VMA 0x53564d41
#define PR_SET_VMA_ANON_NAME 0
#define O_RDWR 2
#define O_NONBLOCK 04000
#define O_CLOEXEC 02000000
#define F_DUPFD_CLOEXEC 1030
#define AT_FDCWD (-100)
#define MSG_DONTWAIT 0x40
#define MSG_NOSIGNAL 0x4000
#define POLLIN 1
#define POLLOUT 4
#define POLLERR 8
#define POLLHUP 16
#define RUSAGE_THREAD 1
#define CLOCK_REALTIME 0
#define CLOCK_MONOTONIC 1

struct sys_timespec {
    int64_t sec, nsec;
};
struct sys_pollfd {
    int fd;
    int16_t events, revents;
};
struct sys_iovec {
    void *base;
    size_t len;
};
/* struct rusage of linux/resource.h: two timevals, then 14 longs. */
struct sys_rusage {
    int64_t utime[2], stime[2];
    int64_t maxrss, ixrss, idrss, isrss, minflt, majflt;
    int64_t rest[8];
};

static inline long sys6(long n, long a, long b, long c, long d, long e, long f)
{
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;
    long ret;

    __asm__ volatile("syscall"
                     : "=a"(ret)
                     : "a"(n), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return ret;
}
static inline long sys4(long n, long a, long b, long c, long d)
{
    register long r10 __asm__("r10") = d;
    long ret;

    __asm__ volatile("syscall"
                     : "=a"(ret)
                     : "a"(n), "D"(a), "S"(b), "d"(c), "r"(r10)
                     : "rcx", "r11", "memory");
    return ret;
}
static inline long sys3(long n, long a, long b, long c)
{
    long ret;

    __asm__ volatile("syscall" : "=a"(ret) : "a"(n), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
    return ret;
}

static inline int sys_open_read(const char *path)
{
    return (int)sys4(__NR_openat, AT_FDCWD, (long)path, O_CLOEXEC, 0);
}
static inline void sys_close(int fd)
{
    if (fd >= 0)
        sys3(__NR_close, fd, 0, 0);
}
static inline long sys_pread(int fd, void *buf, size_t len, int64_t off)
{
    return sys4(__NR_pread64, fd, (long)buf, (long)len, off);
}
static inline long sys_read(int fd, void *buf, size_t len)
{
    return sys3(__NR_read, fd, (long)buf, (long)len);
}
static inline long sys_write(int fd, const void *buf, size_t len)
{
    return sys3(__NR_write, fd, (long)buf, (long)len);
}
static inline long sys_send(int fd, const void *buf, size_t len)
{
    return sys6(__NR_sendto, fd, (long)buf, (long)len, MSG_DONTWAIT | MSG_NOSIGNAL, 0, 0);
}
static inline long sys_recv(int fd, void *buf, size_t len)
{
    return sys6(__NR_recvfrom, fd, (long)buf, (long)len, MSG_DONTWAIT, 0, 0);
}
static inline long sys_poll(struct sys_pollfd *p, unsigned n, int timeout_ms)
{
    return sys3(__NR_poll, (long)p, n, timeout_ms);
}
static inline void sys_futex_wake(volatile uint32_t *word)
{
    sys6(__NR_futex, (long)word, 1 /* FUTEX_WAKE */, 1, 0, 0, 0);
}
static inline void sys_yield(void)
{
    sys3(__NR_sched_yield, 0, 0, 0);
}
static inline long sys_mmap(size_t len, int prot, int flags)
{
    return sys6(__NR_mmap, 0, (long)len, prot, flags, -1, 0);
}
static inline long sys_munmap(void *p, size_t len)
{
    return sys3(__NR_munmap, (long)p, (long)len, 0);
}
static inline long sys_mprotect(void *p, size_t len, int prot)
{
    return sys3(__NR_mprotect, (long)p, (long)len, prot);
}
static inline long sys_madvise(void *p, size_t len, int advice)
{
    return sys3(__NR_madvise, (long)p, (long)len, advice);
}
static inline void sys_name_mapping(void *p, size_t len, const char *name)
{
    sys6(__NR_prctl, PR_SET_VMA, PR_SET_VMA_ANON_NAME, (long)p, (long)len, (long)name, 0);
}
static inline int sys_getpid(void)
{
    return (int)sys3(__NR_getpid, 0, 0, 0);
}
static inline int sys_gettid(void)
{
    return (int)sys3(__NR_gettid, 0, 0, 0);
}
static inline long sys_tgkill(int pid, int tid, int sig)
{
    return sys3(__NR_tgkill, pid, tid, sig);
}
static inline long sys_rusage_thread(struct sys_rusage *ru)
{
    return sys3(__NR_getrusage, RUSAGE_THREAD, (long)ru, 0);
}
/* Reads this process's own memory; fails with -EFAULT where a plain load would fault. */
static inline long sys_read_self(int pid, void *to, const void *from, size_t len)
{
    struct sys_iovec l = { to, len }, r = { (void *)from, len };

    return sys6(__NR_process_vm_readv, pid, (long)&l, 1, (long)&r, 1, 0);
}

/* Threads of this process, by the links of their folder; 0: can't be told. */
static inline uint32_t sys_task_count(void)
{
    uint64_t st[18] = { 0 }; /* struct stat: st_dev, st_ino, st_nlink ... */

    return sys4(__NR_newfstatat, AT_FDCWD, (long)"/proc/self/task", (long)st, 0) < 0 ? 0 : (uint32_t)st[2] - 2;
}

/* What compilers call behind one's back, and a few string helpers (sys.c). */
void *memcpy(void *to, const void *from, size_t n);
void *memmove(void *to, const void *from, size_t n);
void *memset(void *to, int byte, size_t n);
int memcmp(const void *a, const void *b, size_t n);
size_t strlen(const char *s);

bool str_equal(const char *a, const char *b);

/* Text built in a fixed buffer: always NUL terminated, cut when full. */
struct text {
    char *at, *end;
};
static inline struct text text_on(char *buf, size_t size)
{
    struct text t = { buf, buf + size - 1 };

    *buf = 0;
    return t;
}
void text_str(struct text *t, const char *s);
void text_num(struct text *t, int64_t v);

/* Parses decimal digits at *p, at most up to end; advances *p past them. */
uint64_t parse_dec(const char **p, const char *end);

#endif
