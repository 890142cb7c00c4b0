/* /proc/PID and what else the kernel tells about a process from outside. Each
 * file has a parser (pure, over text) and a reader (open, read, parse). */
#ifndef MP_PROC_H
#define MP_PROC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"
#include "target/raddr.h"

#define PROC_COMM_MAX 64        /* comm is 16 bytes; kernel workers' names are longer */
#define PROC_FILE_MAX (1u << 30) /* bytes of one proc file taken at most */

/* --- whole files ---------------------------------------------------------- */

/* Reads /proc/PID/<name> ("maps", "task/12/stat") into fresh memory with a NUL
 * after its last byte; caller frees. 0, -ESRCH when the process is not there,
 * -EACCES, -EFBIG beyond PROC_FILE_MAX, another -errno. */
int proc_read(pid_t pid, const char *name, char **ret_text, size_t *ret_len) MP_MUST_CHECK;

/* As proc_read, of at most max bytes: for cmdline and environ, whose length a process may
 * choose after the fact (prctl(2), PR_SET_MM). */
int proc_read_head(pid_t pid, const char *name, size_t max, char **ret_text, size_t *ret_len) MP_MUST_CHECK;

/* As proc_read for any path. -ENOENT stays -ENOENT. */
int proc_read_path(const char *path, char **ret_text, size_t *ret_len) MP_MUST_CHECK;

/* Target of /proc/PID/<name>, a link ("exe", "ns/pid"); NUL terminated, cut at
 * size. Its length or -errno (-ESRCH, -EACCES). */
ssize_t proc_link(pid_t pid, const char *name, char *ret_buf, size_t size) MP_MUST_CHECK;

/* --- stat ----------------------------------------------------------------- */

struct proc_stat {
    pid_t pid, ppid;
    char comm[PROC_COMM_MAX];
    char state;           /* R S D T t Z X I */
    uint64_t flags;       /* PROC_PF_* and others */
    unsigned threads;
    uint64_t starttime;   /* field 22: clock ticks since boot; tells reused pids apart */
    uint64_t rss_pages;
    int core;             /* it runs on, or ran on last; -1: not told */
};
#define PROC_PF_EXITING 0x00000004u /* include/linux/sched.h, both; stable since 2.6.17 */
#define PROC_PF_KTHREAD 0x00200000u

/* 0, or -EINVAL when text is no stat line. comm may hold spaces and brackets. */
int proc_stat_parse(struct proc_stat *ret, const char *text, size_t len) MP_MUST_CHECK;
/* tid 0: the process (its leader). 0, -ESRCH, -EINVAL, another -errno. */
int proc_stat_read(struct proc_stat *ret, pid_t pid, pid_t tid) MP_MUST_CHECK;
/* Neither a zombie nor on its way there: that has no memory and no descriptors any more
 * (kernel/exit.c, do_exit) and shows R or D for as long as it takes. */
bool proc_stat_lives(const struct proc_stat *s);
/* Whether it is there and lives; *ret as above. */
bool proc_task_lives(pid_t pid, pid_t tid, struct proc_stat *ret);

/* --- status --------------------------------------------------------------- */

struct proc_status {
    char name[PROC_COMM_MAX];
    char state;
    pid_t tgid, pid, ppid, tracer;
    uid_t uid[4]; /* real, effective, saved, filesystem; as our user namespace maps them */
    gid_t gid[4];
    pid_t ns_pid;       /* in its innermost pid namespace; 0 when the kernel (before 4.1) does not say */
    unsigned ns_levels; /* pid namespaces between ours and its own, both counted */
    int seccomp;        /* 0 none, 1 strict, 2 filter; -1 not told */
    unsigned seccomp_filters;
    unsigned threads;
    uint64_t sig_pending, sig_blocked, sig_ignored, sig_caught; /* bit n-1 is signal n */
    uint64_t cap_permitted, cap_effective, cap_bounding;
    bool no_new_privs;
    bool shadow_stack;  /* x86_Thread_features lists shstk */
    uint64_t rss_bytes;
    uint64_t data_bytes; /* writable and private, but for stacks: what RLIMIT_DATA is held against */
};
#define PROC_CAP_SYS_PTRACE 19
#define PROC_CAP_SYS_ADMIN 21
#define PROC_ALL_BLOCKED 0xfffffffffffbfeffull /* a signal mask: all that can be blocked, so not SIGKILL, not SIGSTOP */
#define PROC_CAP_CHECKPOINT_RESTORE 40

/* 0, or -EINVAL when text has no Pid line. Lines not known are passed over. */
int proc_status_parse(struct proc_status *ret, const char *text, size_t len) MP_MUST_CHECK;
int proc_status_read(struct proc_status *ret, pid_t pid, pid_t tid) MP_MUST_CHECK; /* tid as in proc_stat_read */

/* Time that a thread has been on a CPU, in ns; as of the last tick while it is on one (fs/proc/base.c,
 * proc_pid_schedstat). 0 always where sched_info_on() is not. 0, -ESRCH (also on a kernel that
 * has no schedstat), -EINVAL, or another -errno. */
int proc_task_ran(pid_t pid, pid_t tid, uint64_t *ret_ns) MP_MUST_CHECK;

/* --- limits --------------------------------------------------------------- */

#define PROC_UNLIMITED UINT64_MAX
struct proc_limit {
    uint64_t soft, hard; /* PROC_UNLIMITED without */
};
struct proc_limits {
    struct proc_limit nofile, nproc, as, data; /* as, data: bytes */
};
/* /proc/PID/limits. 0, or -EINVAL when a line of them is missing. */
int proc_limits_parse(struct proc_limits *ret, const char *text, size_t len) MP_MUST_CHECK;
int proc_limits_read(struct proc_limits *ret, pid_t pid) MP_MUST_CHECK;

/* What limits are held against; each 0 or -errno. */
int proc_fd_count(pid_t pid, uint64_t below, uint64_t *ret) MP_MUST_CHECK; /* open ones under that number */
int proc_vm_bytes(pid_t pid, uint64_t *ret) MP_MUST_CHECK;                 /* address space mapped */
int proc_user_tasks(uid_t uid, uint64_t *ret) MP_MUST_CHECK; /* threads whose process has this real uid */
int proc_system_tasks(uint64_t *ret) MP_MUST_CHECK;          /* threads of all, namespaces within and without */

/* --- syscall -------------------------------------------------------------- */

/* What a thread does in the kernel right now (fs/proc/base.c, proc_pid_syscall). */
struct proc_syscall {
    bool running;    /* it was on a CPU or runnable: nothing else is known */
    long nr;         /* -1: in the kernel, but not by a system call (fault, preemption) */
    uint64_t arg[6]; /* when nr >= 0 */
    raddr_t sp, pc;  /* when not running */
};
int proc_syscall_parse(struct proc_syscall *ret, const char *text, size_t len) MP_MUST_CHECK;
/* Needs PTRACE_MODE_ATTACH. 0, -ESRCH, -EPERM, -ENOENT (kernel without it), -EINVAL. */
int proc_syscall_read(struct proc_syscall *ret, pid_t pid, pid_t tid) MP_MUST_CHECK;

/* --- tasks and descriptors ------------------------------------------------ */

/* Thread ids, rising. Array is the caller's to free. 0 or -errno. */
int proc_tasks(pid_t pid, pid_t **ret_tids, size_t *ret_count) MP_MUST_CHECK;

/* The thread of pid that its own pid namespace numbers ns_tid (what clone(2) gave its
 * parent, proc_pid_status(5) NSpid) in *ret_tid; 0: none. 0 or -errno. */
int proc_task_of_ns(pid_t pid, pid_t ns_tid, pid_t *ret_tid) MP_MUST_CHECK;

/* Appends the process numbers of a text, up to what is none, to *v (realloc) of *count. 0 or -ENOMEM. */
int proc_numbers_parse(pid_t **v, size_t *count, const char *text) MP_MUST_CHECK;

/* Processes that any thread of pid has forked and that are there still, of /proc/PID/task/TID/children.
 * Array is the caller's to free. 0 (none, too, where the kernel lacks CONFIG_PROC_CHILDREN) or -errno. */
int proc_children(pid_t pid, pid_t **ret_pids, size_t *ret_count) MP_MUST_CHECK;

/* A thread of pid that has memory still (not Z or X): pid itself when it lives,
 * else the oldest that does. -ESRCH when there is none. */
pid_t proc_live_task(pid_t pid) MP_MUST_CHECK;

/* Whether SIGKILL is on its way to a task of pid's: it ends, or executes (kernel/signal.c, zap_other_threads). */
bool proc_kill_pending(pid_t pid);

/* Whether what was read of pid through its task `live` may lack something: that has ended
 * since, and pid lives on in another one, which is to be asked; PROC_LOOKS times at most. */
bool proc_task_lost(pid_t pid, pid_t live);
enum { PROC_LOOKS = 10 };

/* How many threads of this machine run or want to just now, the caller included; 0 where the kernel does not
 * tell (/proc/loadavg, proc(5)). */
long proc_running(void);

struct proc_fd {
    int fd;
    char *target; /* where the link points: "/dev/null", "socket:[123]", "/memfd:x (deleted)" */
};
/* Open descriptors by rising number. 0 or -errno; release with proc_fds_free. */
int proc_fds(pid_t pid, struct proc_fd **ret_fds, size_t *ret_count) MP_MUST_CHECK;
void proc_fds_free(struct proc_fd *fds, size_t count);

/* --- the kernel ----------------------------------------------------------- */

/* Whether a release, as uname(2) has it, is MAJOR.MINOR or later. False for what is none. */
bool proc_release_from(const char *release, unsigned major, unsigned minor);
bool proc_kernel_from(unsigned major, unsigned minor); /* that of the kernel we run on */

/* --- odds and ends -------------------------------------------------------- */

/* Arguments joined by spaces, at most max bytes of them, made fit to be shown
 * (utf8_sanitise). Fresh string; NULL when out of memory or not there. */
char *proc_cmdline(pid_t pid, size_t max);

/* Whether `NAME=value` stands in the block text (NUL separated, as /proc/PID/environ). */
bool proc_environ_has(const char *text, size_t len, const char *assignment);

/* The value of one entry of /proc/PID/auxv (AT_PHDR, AT_BASE, ...). false when absent. */
bool proc_auxv_get(const char *text, size_t len, uint64_t type, uint64_t *ret_value);

/* What tells one exec(2) of a process from the next: the 16 random bytes that the kernel
 * puts on each new stack (AT_RANDOM). 0; -ENOENT without them, another -errno. */
int proc_image_id(pid_t pid, uint8_t ret_id[16]) MP_MUST_CHECK;

/* pidfd_open(2), CLOEXEC at birth. fd or -errno (-ENOSYS before 5.3). */
int proc_pidfd(pid_t pid) MP_MUST_CHECK;

/* 1 when both processes share the namespace ("pid", "mnt", "user"), 0 when not, -errno. */
int proc_same_ns(pid_t a, pid_t b, const char *ns) MP_MUST_CHECK;

/* kernel.yama.ptrace_scope, or -1 where there is no Yama. */
int proc_yama_scope(void);

/* Whether /proc/PID belongs to its user: the kernel gives it to root while the
 * process is not dumpable (proc(5)). A root process cannot be judged: true. */
int proc_dumpable(pid_t pid, uid_t euid, bool *ret_dumpable) MP_MUST_CHECK;

/* The security module's label of a process ("docker-default (enforce)"), ""
 * when there is none. Cut at size. */
void proc_lsm_label(pid_t pid, char *ret_buf, size_t size);

#endif
