/* Room in the target (see room.h). */
#include "inject/room.h"

#include <errno.h>
#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statfs.h>

#include "limits.h"

#define ROOM_PROC_MAGIC 0x9fa0 /* PROC_SUPER_MAGIC, linux/magic.h */
#define ROOM_CAP_SYS_RESOURCE 24
#define ROOM_IGNORED "/sys/module/kernel/parameters/ignore_rlimit_data"
#define HAS_CAP(set, cap) ((set) >> (cap) & 1)

/* --- gathering ------------------------------------------------------------------- */

/* The limit on a user's threads binds neither root nor these (kernel/fork.c, copy_process).
 * Counting them means reading every process's status: only when it can matter. */
static void gather_nproc(struct room_limit *l, const struct proc_status *s)
{
    uint64_t all = 0;
    if (l->limit.soft == PROC_UNLIMITED || s->uid[0] == 0 || HAS_CAP(s->cap_effective, ROOM_CAP_SYS_RESOURCE) ||
        HAS_CAP(s->cap_effective, PROC_CAP_SYS_ADMIN))
        return;
    if (proc_system_tasks(&all) == 0 && all + MP_NEED_THREADS <= l->limit.soft)
        return;
    l->known = proc_user_tasks(s->uid[0], &l->used) == 0;
}

/* Before 4.5 it bound nothing but brk(2). The kernel may have been told to do without it
 * (ignore_rlimit_data), and 0 means the hard one (mm/mmap.c, may_expand_vm: for Valgrind's sake). */
static void gather_data(struct room_limit *l, const struct proc_limit *limit, const struct proc_status *s)
{
    char *text;
    size_t len;
    bool ignored = false;
    if (limit->soft == PROC_UNLIMITED || limit->soft == 0 || !proc_kernel_from(4, 5))
        return;
    if (proc_read_path(ROOM_IGNORED, &text, &len) == 0) {
        ignored = len && text[0] == 'Y';
        free(text);
    }
    *l = (struct room_limit){!ignored, s->data_bytes, *limit};
}

/* The agent opens files of /proc/self, and is itself loaded from there. */
static bool lacks_proc(pid_t live)
{
    char root[32], path[64];
    struct stat st;
    struct statfs fs;
    snprintf(root, sizeof(root), "/proc/%d/root", (int)live);
    if (stat(root, &st) < 0)
        return false; /* not ours to look at */
    snprintf(path, sizeof(path), "%s/proc/self", root);
    if (lstat(path, &st) < 0)
        return errno == ENOENT || errno == ENOTDIR;
    snprintf(path, sizeof(path), "%s/proc", root);
    return statfs(path, &fs) == 0 && fs.f_type != ROOM_PROC_MAGIC;
}

void room_gather(struct room *ret, pid_t pid, pid_t live, const struct proc_status *s)
{
    struct proc_limits l;
    memset(ret, 0, sizeof(*ret));
    ret->no_proc = lacks_proc(live);
    if (proc_link(live, "root", ret->root, sizeof(ret->root)) < 0)
        ret->root[0] = 0;
    if (proc_limits_read(&l, pid) < 0)
        return;
    ret->nofile.limit = l.nofile;
    ret->nproc.limit = l.nproc;
    ret->as.limit = l.as;
    if (l.nofile.soft != PROC_UNLIMITED)
        ret->nofile.known = proc_fd_count(live, l.nofile.soft, &ret->nofile.used) == 0;
    if (l.as.soft != PROC_UNLIMITED)
        ret->as.known = proc_vm_bytes(live, &ret->as.used) == 0;
    gather_data(&ret->data, &l.data, s);
    gather_nproc(&ret->nproc, s);
}

/* --- judging ---------------------------------------------------------------------- */

struct room_row {
    size_t at;
    const char *limit, *option; /* of prlimit(1) */
    const char *what;
    uint64_t need, spare; /* spare: what the remedy adds */
};

static const struct room_row rows[] = {
    {offsetof(struct room, nofile), "RLIMIT_NOFILE", "nofile", "file descriptors", MP_NEED_FDS, 64},
    {offsetof(struct room, nproc), "RLIMIT_NPROC", "nproc", "threads and processes of its user", MP_NEED_THREADS, 64},
    {offsetof(struct room, as), "RLIMIT_AS", "as", "bytes of address space", MP_NEED_AS, 256u << 20},
    {offsetof(struct room, data), "RLIMIT_DATA", "data", "bytes of data", MP_NEED_DATA, 256u << 20},
};

static int refuse(const struct room_row *row, const struct room_limit *l, pid_t pid, struct mp_failure *f)
{
    uint64_t want = (l->used > l->limit.soft ? l->used : l->limit.soft) + row->spare;
    int r = mp_fail(f, MP_E_LIMIT, 0,
                    "process %d uses %" PRIu64 " of the %" PRIu64 " %s that its %s allows; injection needs %" PRIu64 " more",
                    (int)pid, l->used, l->limit.soft, row->what, row->limit, row->need);
    if (want <= l->limit.hard)
        mp_fail_hint(f, "raise it first: prlimit --pid %d --%s=%" PRIu64 ":", (int)pid, row->option, want);
    else
        mp_fail_hint(f, "raise it first, as root: prlimit --pid %d --%s=%" PRIu64, (int)pid, row->option, want);
    return r;
}

/* Whether a name chosen by the target means itself to a shell. */
static bool is_plain(const char *path)
{
    static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-+:@,=";
    return path[0] == '/' && !path[strspn(path, plain)];
}

static int refuse_no_proc(const struct room *r, pid_t pid, struct mp_failure *f)
{
    int ret = mp_fail(f, MP_E_NO_PROC, 0, "there is no /proc in the root of process %d%s%s, and the agent reads /proc/self",
                      (int)pid, r->root[0] ? ", " : "", r->root);
    bool whole = strlen(r->root) < sizeof(r->root) - 1;
    /* A hint is a line that root may paste into a shell. */
    if (whole && is_plain(r->root) && strcmp(r->root, "/"))
        mp_fail_hint(f, "mkdir -p %s/proc && mount --bind /proc %s/proc (in its mount namespace: nsenter -t %d -m)",
                     r->root, r->root, (int)pid);
    else
        mp_fail_hint(f, "mount it there, in its mount namespace (nsenter -t %d -m)", (int)pid);
    return ret;
}

int room_check(const struct room *r, pid_t pid, struct mp_failure *f)
{
    if (r->no_proc)
        return refuse_no_proc(r, pid, f);
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        const struct room_limit *l = (const struct room_limit *)((const char *)r + rows[i].at);
        if (l->known && l->used + rows[i].need > l->limit.soft)
            return refuse(&rows[i], l, pid, f);
    }
    return 0;
}

/* --- after the fact ------------------------------------------------------------------ */

static const struct {
    int err;
    const char *limit, *options; /* of prlimit(1); NULL: it is not the process's */
} errnos[] = {
    {EMFILE, "RLIMIT_NOFILE", "--nofile"},
    {ENFILE, "the system's fs.file-max", NULL},
    {EAGAIN, "RLIMIT_NPROC, or pids.max of its control group", "--nproc"},
    {ENOMEM, "RLIMIT_AS or RLIMIT_DATA, or vm.max_map_count", "--as --data"},
};

int room_explain(const char *step, pid_t pid, int err, struct mp_failure *f)
{
    for (size_t i = 0; i < sizeof(errnos) / sizeof(errnos[0]); i++) {
        int r;
        if (errnos[i].err != err)
            continue;
        r = mp_fail(f, MP_E_LIMIT, err, "%s failed in process %d: %s (%s)", step, (int)pid, strerror(err), errnos[i].limit);
        if (errnos[i].options)
            mp_fail_hint(f, "see what it is: prlimit --pid %d %s; then raise it (prlimit --pid PID --OPTION=SOFT:)", (int)pid,
                         errnos[i].options);
        else
            mp_fail_hint(f, "raise it: sysctl fs.file-max");
        return r;
    }
    return 0;
}
