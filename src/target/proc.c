/* /proc/PID: parsers over text, and the readers that feed them.
 *
 * Nothing here trusts the text: a process chooses its own name, arguments and
 * links. stat's comm may contain ") R 1" and status escapes newlines in Name. */
#include "target/proc.h"

#include <ctype.h>
#include <dirent.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "base/utf8.h"
#include "target/mem.h"

/* --- whole files ---------------------------------------------------------- */

/* Reads fd to its end, or max bytes of it. proc files report size 0, so the buffer grows. */
static int read_all(int fd, size_t max, char **ret_text, size_t *ret_len)
{
    size_t cap = 16384, len = 0;
    char *buf = malloc(cap);
    while (buf) {
        size_t room = cap - 1 - len < max - len ? cap - 1 - len : max - len;
        ssize_t n = read(fd, buf + len, room);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0) {
            int r = -errno;
            free(buf);
            return r;
        }
        if (n == 0) {
            buf[len] = '\0';
            *ret_text = buf;
            *ret_len = len;
            return 0;
        }
        len += (size_t)n;
        if (cap - 1 - len < 4096) {
            char *grown = realloc(buf, cap * 2);
            if (!grown)
                break;
            buf = grown;
            cap *= 2;
        }
    }
    free(buf);
    return -ENOMEM;
}

static int read_head(const char *path, size_t max, char **ret_text, size_t *ret_len)
{
    int r, fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    r = read_all(fd, max, ret_text, ret_len);
    close(fd);
    return r;
}

int proc_read_path(const char *path, char **ret_text, size_t *ret_len)
{
    char *text;
    size_t len;
    int r = read_head(path, PROC_FILE_MAX, &text, &len);
    if (r < 0)
        return r;
    if (len >= PROC_FILE_MAX) {
        free(text);
        return -EFBIG;
    }
    *ret_text = text;
    *ret_len = len;
    return 0;
}

static void proc_path(char *buf, size_t size, pid_t pid, const char *name)
{
    snprintf(buf, size, "/proc/%d/%s", (int)pid, name);
}

/* -ENOENT means that the process went, unless its folder is still there. */
static int absence(int err, pid_t pid)
{
    char path[32];
    if (err != -ENOENT)
        return err;
    snprintf(path, sizeof(path), "/proc/%d", (int)pid);
    return access(path, F_OK) < 0 ? -ESRCH : -ENOENT;
}

int proc_read(pid_t pid, const char *name, char **ret_text, size_t *ret_len)
{
    char path[128];
    proc_path(path, sizeof(path), pid, name);
    return absence(proc_read_path(path, ret_text, ret_len), pid);
}

int proc_read_head(pid_t pid, const char *name, size_t max, char **ret_text, size_t *ret_len)
{
    char path[128];
    proc_path(path, sizeof(path), pid, name);
    return absence(read_head(path, max, ret_text, ret_len), pid);
}

ssize_t proc_link(pid_t pid, const char *name, char *ret_buf, size_t size)
{
    char path[128];
    ssize_t n;
    if (!size)
        return -EINVAL;
    proc_path(path, sizeof(path), pid, name);
    n = readlink(path, ret_buf, size - 1);
    if (n < 0)
        return absence(-errno, pid);
    ret_buf[n] = '\0';
    return n;
}

/* Name of a per-thread file: "stat" for the leader, "task/TID/stat" for a thread. */
static void task_name(char *buf, size_t size, pid_t tid, const char *file)
{
    if (tid)
        snprintf(buf, size, "task/%d/%s", (int)tid, file);
    else
        snprintf(buf, size, "%s", file);
}

static int read_task(pid_t pid, pid_t tid, const char *file, char **ret_text, size_t *ret_len)
{
    char name[64];
    int r;
    task_name(name, sizeof(name), tid, file);
    r = proc_read(pid, name, ret_text, ret_len);
    return r == -ENOENT && tid ? -ESRCH : r; /* the thread went, the process stays */
}

/* The number that a text begins with; frees the text. */
static int take_number(char *text, uint64_t *ret)
{
    int r = isdigit((unsigned char)*text) ? 0 : -EINVAL;
    if (r == 0)
        *ret = strtoull(text, NULL, 10);
    free(text);
    return r;
}

/* --- stat ----------------------------------------------------------------- */

int proc_stat_parse(struct proc_stat *ret, const char *text, size_t len)
{
    struct proc_stat s = {.core = -1};
    /* comm ends at the LAST bracket: it may hold brackets itself. */
    const char *open = memchr(text, '(', len), *close = memrchr(text, ')', len);
    char rest[1024];
    size_t n;
    int fields;
    if (!open || !close || close < open)
        return -EINVAL;
    n = (size_t)(close - open - 1);
    if (n >= sizeof(s.comm))
        n = sizeof(s.comm) - 1;
    memcpy(s.comm, open + 1, n);
    s.pid = (pid_t)strtol(text, NULL, 10);
    n = len - (size_t)(close + 1 - text);
    if (n >= sizeof(rest))
        n = sizeof(rest) - 1;
    memcpy(rest, close + 1, n);
    rest[n] = '\0';
    /* Fields 3 state, 4 ppid, 9 flags, 20 num_threads, 22 starttime, 24 rss, 39 processor (proc(5)). */
    fields = sscanf(rest, " %c %d %*d %*d %*d %*d %lu %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %u %*d %lu %*u %lu"
                    " %*u %*u %*u %*u %*u %*u %*u %*u %*u %*u %*u %*u %*u %*d %d",
                    &s.state, &s.ppid, &s.flags, &s.threads, &s.starttime, &s.rss_pages, &s.core);
    if (fields < 6 || s.pid <= 0)
        return -EINVAL;
    *ret = s;
    return 0;
}

/* Without malloc: this is what tells a process that lives from one that is gone, and no want
 * of memory may be taken for a death. One line: 52 numbers, and a name of 64 bytes at most. */
int proc_stat_read(struct proc_stat *ret, pid_t pid, pid_t tid)
{
    char name[64], path[128], text[2048];
    ssize_t n;
    int fd;
    task_name(name, sizeof(name), tid, "stat");
    proc_path(path, sizeof(path), pid, name);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        int r = absence(-errno, pid);
        return r == -ENOENT && tid ? -ESRCH : r; /* the thread went, the process stays */
    }
    do
        n = read(fd, text, sizeof(text) - 1);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        n = -errno;
    close(fd);
    if (n < 0)
        return (int)n;
    text[n] = '\0';
    return proc_stat_parse(ret, text, (size_t)n);
}

/* --- status --------------------------------------------------------------- */

/* A value's text, cut out of its line and NUL terminated. */
static void set_name(struct proc_status *s, const char *v) { snprintf(s->name, sizeof(s->name), "%s", v); }
static void set_state(struct proc_status *s, const char *v) { s->state = *v; }
static void set_tgid(struct proc_status *s, const char *v) { s->tgid = (pid_t)strtol(v, NULL, 10); }
static void set_pid(struct proc_status *s, const char *v) { s->pid = (pid_t)strtol(v, NULL, 10); }
static void set_ppid(struct proc_status *s, const char *v) { s->ppid = (pid_t)strtol(v, NULL, 10); }
static void set_tracer(struct proc_status *s, const char *v) { s->tracer = (pid_t)strtol(v, NULL, 10); }
static void set_threads(struct proc_status *s, const char *v) { s->threads = (unsigned)strtoul(v, NULL, 10); }
static void set_seccomp(struct proc_status *s, const char *v) { s->seccomp = (int)strtol(v, NULL, 10); }
static void set_filters(struct proc_status *s, const char *v) { s->seccomp_filters = (unsigned)strtoul(v, NULL, 10); }
static void set_nnp(struct proc_status *s, const char *v) { s->no_new_privs = *v == '1'; }
static void set_sigpnd(struct proc_status *s, const char *v) { s->sig_pending |= strtoull(v, NULL, 16); }
static void set_sigblk(struct proc_status *s, const char *v) { s->sig_blocked = strtoull(v, NULL, 16); }
static void set_sigign(struct proc_status *s, const char *v) { s->sig_ignored = strtoull(v, NULL, 16); }
static void set_sigcgt(struct proc_status *s, const char *v) { s->sig_caught = strtoull(v, NULL, 16); }
static void set_capprm(struct proc_status *s, const char *v) { s->cap_permitted = strtoull(v, NULL, 16); }
static void set_capeff(struct proc_status *s, const char *v) { s->cap_effective = strtoull(v, NULL, 16); }
static void set_capbnd(struct proc_status *s, const char *v) { s->cap_bounding = strtoull(v, NULL, 16); }
static void set_rss(struct proc_status *s, const char *v) { s->rss_bytes = strtoull(v, NULL, 10) * 1024; }
static void set_data(struct proc_status *s, const char *v) { s->data_bytes = strtoull(v, NULL, 10) * 1024; }

/* Up to four numbers. */
static void take_ids(uint32_t id[4], const char *v)
{
    int i;
    for (i = 0; i < 4; i++) {
        char *end;
        id[i] = (uint32_t)strtoul(v, &end, 10);
        if (end == v)
            break;
        v = end;
    }
}
static void set_uid(struct proc_status *s, const char *v) { take_ids(s->uid, v); }
static void set_gid(struct proc_status *s, const char *v) { take_ids(s->gid, v); }

/* Ids from our pid namespace inwards: the last is the process's own view. */
static void set_nspid(struct proc_status *s, const char *v)
{
    s->ns_levels = 0;
    for (;;) {
        char *end;
        long id = strtol(v, &end, 10);
        if (end == v)
            return;
        s->ns_pid = (pid_t)id;
        s->ns_levels++;
        v = end;
    }
}

/* "shstk wrss": a list of words (Documentation/arch/x86/shstk.rst). */
static void set_features(struct proc_status *s, const char *v)
{
    const char *at = v;
    while ((at = strstr(at, "shstk"))) {
        bool starts = at == v || at[-1] == ' ';
        at += 5;
        if (starts && (*at == '\0' || *at == ' '))
            s->shadow_stack = true;
    }
}

static const struct {
    const char *key;
    void (*set)(struct proc_status *s, const char *value);
} status_rows[] = {
    {"Name", set_name}, {"State", set_state}, {"Tgid", set_tgid}, {"Pid", set_pid}, {"PPid", set_ppid},
    {"TracerPid", set_tracer}, {"Uid", set_uid}, {"Gid", set_gid}, {"NSpid", set_nspid},
    {"Threads", set_threads}, {"Seccomp", set_seccomp}, {"Seccomp_filters", set_filters},
    {"NoNewPrivs", set_nnp}, {"SigPnd", set_sigpnd}, {"ShdPnd", set_sigpnd}, {"SigBlk", set_sigblk},
    {"SigIgn", set_sigign}, {"SigCgt", set_sigcgt}, {"CapPrm", set_capprm}, {"CapEff", set_capeff},
    {"CapBnd", set_capbnd}, {"VmRSS", set_rss}, {"VmData", set_data}, {"x86_Thread_features", set_features},
};

static void status_line(struct proc_status *s, const char *line, size_t len)
{
    const char *colon = memchr(line, ':', len), *v, *end = line + len;
    char value[512];
    size_t i, n;
    if (!colon)
        return;
    for (v = colon + 1; v < end && (*v == '\t' || *v == ' '); v++)
        ;
    n = (size_t)(end - v);
    if (n >= sizeof(value))
        n = sizeof(value) - 1;
    memcpy(value, v, n);
    value[n] = '\0';
    for (i = 0; i < sizeof(status_rows) / sizeof(status_rows[0]); i++) {
        size_t k = strlen(status_rows[i].key);
        if (k == (size_t)(colon - line) && !memcmp(line, status_rows[i].key, k)) {
            status_rows[i].set(s, value);
            return;
        }
    }
}

int proc_status_parse(struct proc_status *ret, const char *text, size_t len)
{
    struct proc_status s = {.seccomp = -1};
    const char *at = text, *end = text + len;
    while (at < end) {
        const char *eol = memchr(at, '\n', (size_t)(end - at));
        if (!eol)
            eol = end;
        status_line(&s, at, (size_t)(eol - at));
        at = eol + 1;
    }
    if (s.pid <= 0)
        return -EINVAL;
    if (!s.ns_levels) { /* before 4.1: one namespace is all we can assume */
        s.ns_pid = 0;
        s.ns_levels = 1;
    }
    *ret = s;
    return 0;
}

int proc_status_read(struct proc_status *ret, pid_t pid, pid_t tid)
{
    char *text;
    size_t len;
    int r = read_task(pid, tid, "status", &text, &len);
    if (r < 0)
        return r;
    r = proc_status_parse(ret, text, len);
    free(text);
    return r;
}

int proc_task_ran(pid_t pid, pid_t tid, uint64_t *ret_ns)
{
    char *text;
    size_t len;
    int r = read_task(pid, tid, "schedstat", &text, &len);
    return r < 0 ? r : take_number(text, ret_ns);
}

int proc_task_of_ns(pid_t pid, pid_t ns_tid, pid_t *ret_tid)
{
    pid_t *tids;
    size_t n;
    *ret_tid = 0;
    int r = proc_tasks(pid, &tids, &n);
    if (r < 0)
        return r;
    for (size_t i = 0; i < n && !*ret_tid; i++) {
        struct proc_status s;
        if (proc_status_read(&s, pid, tids[i]) == 0 && (s.ns_pid ? s.ns_pid : s.pid) == ns_tid)
            *ret_tid = tids[i];
    }
    free(tids);
    return 0;
}

/* --- syscall -------------------------------------------------------------- */

int proc_syscall_parse(struct proc_syscall *ret, const char *text, size_t len)
{
    struct proc_syscall s = {.nr = -1};
    char line[256];
    int n;
    if (len >= sizeof(line))
        return -EINVAL;
    memcpy(line, text, len);
    line[len] = '\0';
    if (!strncmp(line, "running", 7)) {
        s.running = true;
        *ret = s;
        return 0;
    }
    n = sscanf(line, "%ld %lx %lx %lx %lx %lx %lx %lx %lx", &s.nr, &s.arg[0], &s.arg[1], &s.arg[2], &s.arg[3],
               &s.arg[4], &s.arg[5], &s.sp, &s.pc);
    if (n == 3 && s.nr == -1) { /* "-1 sp pc": no arguments */
        s.sp = s.arg[0];
        s.pc = s.arg[1];
        memset(s.arg, 0, sizeof(s.arg));
    } else if (n != 9 || s.nr < 0) {
        return -EINVAL;
    }
    *ret = s;
    return 0;
}

int proc_syscall_read(struct proc_syscall *ret, pid_t pid, pid_t tid)
{
    char *text;
    size_t len;
    int r = read_task(pid, tid, "syscall", &text, &len);
    if (r < 0)
        return r;
    r = proc_syscall_parse(ret, text, len);
    free(text);
    return r;
}

/* --- tasks and descriptors ------------------------------------------------ */

static int by_number(const void *a, const void *b)
{
    int x = *(const int *)a, y = *(const int *)b;
    return (x > y) - (x < y);
}

/* Numbers that name the entries of a /proc/PID folder, rising. */
static int numbered_entries(pid_t pid, const char *folder, int **ret, size_t *ret_count)
{
    char path[64];
    DIR *d;
    struct dirent *e;
    int *v = NULL;
    size_t n = 0, cap = 0;
    proc_path(path, sizeof(path), pid, folder);
    d = opendir(path);
    if (!d)
        return absence(-errno, pid);
    while ((e = readdir(d))) {
        if (!isdigit((unsigned char)e->d_name[0]))
            continue;
        if (n == cap) {
            int *grown = realloc(v, (cap = cap ? cap * 2 : 64) * sizeof(*v));
            if (!grown) {
                free(v);
                closedir(d);
                return -ENOMEM;
            }
            v = grown;
        }
        v[n++] = (int)strtol(e->d_name, NULL, 10);
    }
    closedir(d);
    if (n)
        qsort(v, n, sizeof(*v), by_number);
    *ret = v;
    *ret_count = n;
    return 0;
}

_Static_assert(sizeof(pid_t) == sizeof(int), "task ids are read as ints");

int proc_tasks(pid_t pid, pid_t **ret_tids, size_t *ret_count)
{
    return numbered_entries(pid, "task", ret_tids, ret_count);
}

int proc_numbers_parse(pid_t **v, size_t *count, const char *text)
{
    char *end;
    for (long n = strtol(text, &end, 10); end != text && n > 0 && n <= INT_MAX; n = strtol(text, &end, 10)) {
        pid_t *grown = realloc(*v, (*count + 1) * sizeof(**v));
        if (!grown)
            return -ENOMEM;
        *v = grown;
        (*v)[(*count)++] = (pid_t)n;
        text = end;
    }
    return 0;
}

int proc_children(pid_t pid, pid_t **ret_pids, size_t *ret_count)
{
    pid_t *tids, *found = NULL;
    size_t i, n, count = 0;
    int r = proc_tasks(pid, &tids, &n);
    if (r < 0)
        return r;
    for (i = 0; i < n && r == 0; i++) {
        char name[48], *text;
        size_t len;
        snprintf(name, sizeof(name), "task/%d/children", (int)tids[i]);
        if (proc_read(pid, name, &text, &len) < 0)
            continue; /* the thread has ended, or the kernel has no such file */
        r = proc_numbers_parse(&found, &count, text);
        free(text);
    }
    free(tids);
    if (r < 0) {
        free(found);
        return r;
    }
    *ret_pids = found;
    *ret_count = count;
    return 0;
}

bool proc_stat_lives(const struct proc_stat *s)
{
    return !strchr("ZXx", s->state) && !(s->flags & PROC_PF_EXITING);
}

bool proc_task_lives(pid_t pid, pid_t tid, struct proc_stat *ret)
{
    return proc_stat_read(ret, pid, tid) == 0 && proc_stat_lives(ret);
}

/* The oldest: among threads that come and go it is the one to stay. Not the lowest
 * number, since numbers begin anew. */
static pid_t other_live_task(pid_t pid)
{
    pid_t *tids, found = -ESRCH;
    struct proc_stat s;
    uint64_t oldest = 0;
    size_t i, n;
    int r = proc_tasks(pid, &tids, &n);
    if (r < 0)
        return r;
    for (i = 0; i < n; i++) {
        if (!proc_task_lives(pid, tids[i], &s) || (found > 0 && s.starttime >= oldest))
            continue;
        found = tids[i];
        oldest = s.starttime;
    }
    free(tids);
    return found;
}

/* A list of threads that is read while one of them ends may lack others. */
pid_t proc_live_task(pid_t pid)
{
    struct proc_stat s;
    pid_t found = -ESRCH;
    int i;
    if (proc_task_lives(pid, pid, &s))
        return pid;
    for (i = 0; i < PROC_LOOKS && found == -ESRCH; i++) {
        found = other_live_task(pid);
        if (found == -ESRCH && (proc_stat_read(&s, pid, 0) < 0 || s.threads < 2))
            break;
    }
    return found;
}

bool proc_kill_pending(pid_t pid)
{
    struct proc_status s;
    bool pending = false;
    pid_t *tids;
    size_t i, n;
    if (proc_tasks(pid, &tids, &n) < 0)
        return false;
    for (i = 0; i < n && !pending; i++)
        pending = proc_status_read(&s, pid, tids[i]) == 0 && s.sig_pending >> (SIGKILL - 1) & 1;
    free(tids);
    return pending;
}

bool proc_task_lost(pid_t pid, pid_t live)
{
    struct proc_stat s;
    return !proc_task_lives(pid, live, &s) && proc_live_task(pid) > 0;
}

long proc_running(void)
{
    long running = 0;
    FILE *file = fopen("/proc/loadavg", "re");
    if (!file)
        return 0;
    int fields = fscanf(file, "%*s %*s %*s %ld/", &running);
    fclose(file);
    return fields == 1 ? running : 0;
}

/* --- limits --------------------------------------------------------------- */

static const char *limit_value(const char *p, uint64_t *ret)
{
    char *end;
    while (*p == ' ')
        p++;
    if (!strncmp(p, "unlimited", 9)) {
        *ret = PROC_UNLIMITED;
        return p + 9;
    }
    if (!isdigit((unsigned char)*p))
        return NULL;
    *ret = strtoull(p, &end, 10);
    return end;
}

/* "Max open files            1024                 524288               files" */
static int limit_parse(struct proc_limit *ret, const char *text, const char *name)
{
    struct proc_limit l;
    const char *p = strstr(text, name);
    p = p ? limit_value(p + strlen(name), &l.soft) : NULL;
    p = p ? limit_value(p, &l.hard) : NULL;
    if (!p)
        return -EINVAL;
    *ret = l;
    return 0;
}

int proc_limits_parse(struct proc_limits *ret, const char *text, size_t len)
{
    struct proc_limits l;
    char *copy = strndup(text, len);
    int r = copy ? 0 : -ENOMEM;
    if (r == 0 && (limit_parse(&l.nofile, copy, "Max open files ") || limit_parse(&l.nproc, copy, "Max processes ") ||
                   limit_parse(&l.as, copy, "Max address space ") || limit_parse(&l.data, copy, "Max data size ")))
        r = -EINVAL;
    free(copy);
    if (r == 0)
        *ret = l;
    return r;
}

int proc_limits_read(struct proc_limits *ret, pid_t pid)
{
    char *text;
    size_t len;
    int r = proc_read(pid, "limits", &text, &len);
    if (r < 0)
        return r;
    r = proc_limits_parse(ret, text, len);
    free(text);
    return r;
}

int proc_fd_count(pid_t pid, uint64_t below, uint64_t *ret)
{
    int *numbers;
    size_t n;
    uint64_t count = 0;
    int r = numbered_entries(pid, "fd", &numbers, &n);
    if (r < 0)
        return r;
    for (size_t i = 0; i < n; i++)
        count += (uint64_t)numbers[i] < below;
    free(numbers);
    *ret = count;
    return 0;
}

int proc_vm_bytes(pid_t pid, uint64_t *ret)
{
    char *text;
    size_t len;
    uint64_t pages;
    int r = proc_read(pid, "statm", &text, &len);
    r = r < 0 ? r : take_number(text, &pages);
    if (r == 0)
        *ret = pages * (uint64_t)sysconf(_SC_PAGESIZE);
    return r;
}

int proc_user_tasks(uid_t uid, uint64_t *ret)
{
    DIR *dir = opendir("/proc");
    uint64_t count = 0;
    struct dirent *e;
    if (!dir)
        return -errno;
    while ((e = readdir(dir))) {
        struct proc_status s;
        if (isdigit((unsigned char)e->d_name[0]) && proc_status_read(&s, (pid_t)atoi(e->d_name), 0) == 0 && s.uid[0] == uid)
            count += s.threads;
    }
    closedir(dir);
    *ret = count;
    return 0;
}

/* "0.01 0.03 0.05 2/345 6789": the number behind the stroke (fs/proc/loadavg.c). */
int proc_system_tasks(uint64_t *ret)
{
    char *text;
    size_t len;
    unsigned long n;
    int r = proc_read_path("/proc/loadavg", &text, &len);
    if (r < 0)
        return r;
    r = sscanf(text, "%*s %*s %*s %*u/%lu", &n) == 1 ? 0 : -EINVAL;
    free(text);
    if (r == 0)
        *ret = n;
    return r;
}

/* --- descriptors ---------------------------------------------------------- */

void proc_fds_free(struct proc_fd *fds, size_t count)
{
    size_t i;
    for (i = 0; fds && i < count; i++)
        free(fds[i].target);
    free(fds);
}

int proc_fds(pid_t pid, struct proc_fd **ret_fds, size_t *ret_count)
{
    int *numbers;
    size_t i, n, kept = 0;
    struct proc_fd *fds;
    int r = numbered_entries(pid, "fd", &numbers, &n);
    if (r < 0)
        return r;
    fds = calloc(n ? n : 1, sizeof(*fds));
    for (i = 0; fds && i < n; i++) {
        char name[32], target[4096];
        snprintf(name, sizeof(name), "fd/%d", numbers[i]);
        if (proc_link(pid, name, target, sizeof(target)) < 0)
            continue; /* closed since the folder was read */
        fds[kept].fd = numbers[i];
        fds[kept].target = strdup(target);
        if (!fds[kept].target) {
            proc_fds_free(fds, kept);
            fds = NULL;
            break;
        }
        kept++;
    }
    free(numbers);
    if (!fds)
        return -ENOMEM;
    *ret_fds = fds;
    *ret_count = kept;
    return 0;
}

/* --- the kernel ----------------------------------------------------------- */

bool proc_release_from(const char *release, unsigned major, unsigned minor)
{
    unsigned is_major, is_minor;
    return sscanf(release, "%u.%u", &is_major, &is_minor) == 2 && (is_major > major || (is_major == major && is_minor >= minor));
}

bool proc_kernel_from(unsigned major, unsigned minor)
{
    struct utsname u;
    return uname(&u) == 0 && proc_release_from(u.release, major, minor);
}

/* --- odds and ends -------------------------------------------------------- */

char *proc_cmdline(pid_t pid, size_t max)
{
    char *text, *clean;
    size_t i, len;
    if (proc_read_head(pid, "cmdline", max, &text, &len) < 0)
        return NULL;
    while (len && text[len - 1] == '\0')
        len--;
    for (i = 0; i < len; i++)
        if (text[i] == '\0')
            text[i] = ' ';
    clean = utf8_sanitise(text, len);
    free(text);
    return clean;
}

bool proc_environ_has(const char *text, size_t len, const char *assignment)
{
    const char *at = text, *end = text + len;
    size_t want = strlen(assignment);
    while (at < end) {
        const char *nul = memchr(at, '\0', (size_t)(end - at));
        size_t n = (size_t)((nul ? nul : end) - at);
        if (n == want && !memcmp(at, assignment, n))
            return true;
        at += n + 1;
    }
    return false;
}

bool proc_auxv_get(const char *text, size_t len, uint64_t type, uint64_t *ret_value)
{
    uint64_t pair[2];
    for (; len >= sizeof(pair); text += sizeof(pair), len -= sizeof(pair)) {
        memcpy(pair, text, sizeof(pair));
        if (pair[0] == 0) /* AT_NULL ends the list */
            return false;
        if (pair[0] == type) {
            *ret_value = pair[1];
            return true;
        }
    }
    return false;
}

int proc_image_id(pid_t pid, uint8_t ret_id[16])
{
    uint64_t at = 0;
    uint8_t id[16];
    char *auxv;
    size_t len;
    pid_t live = proc_live_task(pid);
    int r = live < 0 ? (int)live : proc_read(live, "auxv", &auxv, &len);
    if (r < 0)
        return r;
    r = proc_auxv_get(auxv, len, AT_RANDOM, &at) ? 0 : -ENOENT;
    free(auxv);
    if (r == 0)
        r = mem_read(live, at, id, sizeof(id));
    if (r == 0)
        memcpy(ret_id, id, sizeof(id));
    return r;
}

int proc_pidfd(pid_t pid)
{
    int fd = (int)syscall(SYS_pidfd_open, pid, 0); /* always CLOEXEC */
    return fd < 0 ? -errno : fd;
}

int proc_same_ns(pid_t a, pid_t b, const char *ns)
{
    char name[32], in_a[64], in_b[64];
    ssize_t r;
    snprintf(name, sizeof(name), "ns/%s", ns);
    r = proc_link(a, name, in_a, sizeof(in_a));
    if (r < 0)
        return (int)r;
    r = proc_link(b, name, in_b, sizeof(in_b));
    if (r < 0)
        return (int)r;
    return !strcmp(in_a, in_b);
}

int proc_yama_scope(void)
{
    char *text;
    size_t len;
    int scope;
    if (proc_read_path("/proc/sys/kernel/yama/ptrace_scope", &text, &len) < 0)
        return -1;
    scope = (int)strtol(text, NULL, 10);
    free(text);
    return scope;
}

int proc_dumpable(pid_t pid, uid_t euid, bool *ret_dumpable)
{
    char path[32];
    struct stat st;
    /* The folder itself always belongs to the user; what is in it does not. */
    snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
    if (stat(path, &st) < 0)
        return absence(-errno, pid);
    *ret_dumpable = euid == 0 || st.st_uid == euid;
    return 0;
}

void proc_lsm_label(pid_t pid, char *ret_buf, size_t size)
{
    char *text;
    size_t i, len;
    if (!size)
        return;
    ret_buf[0] = '\0';
    if (proc_read(pid, "attr/current", &text, &len) < 0)
        return;
    for (i = 0; i < len && i + 1 < size && text[i] >= ' ' && text[i] < 0x7f; i++)
        ret_buf[i] = text[i];
    ret_buf[i] = '\0';
    free(text);
}
