/* What a fork carried into this process of agents that run in another one, the copies:
 *
 *   region       with the boot block, which tells the rest; its threads are not here
 *   descriptors  of the boot block's list
 *   agent        the library, on libc's list as any other
 *   armed page   wiped, so that hooks return at once
 *   callbacks    from 3.12 on: Python objects whose code is in the library
 *
 * Each goes only when nothing can reach it, in the order hooks and callbacks (under the
 * GIL: nobody is inside of one then), library, region. Rings and tables were not
 * inherited (memory.c); thunk pages go by themselves (thunk_cure).
 *
 * A copy is told by the page that forks wipe; where there is none (yet), by its owner's
 * pid. The pid alone would take a process that shares its memory (vfork) for a copy. */
#include "agent/maps.h"
#include "agent/python.h"

#define COPIES_MAX 16
#define PAGES_MAX 1024    /* looked at in one mapping without a file: a JIT may have gigabytes */
#define FDS_LOOKED_AT 2048 /* the loader's lie below */
#define THREADS_MAX 65536 /* on libc's list */

static struct mp_boot *copies[COPIES_MAX];
static unsigned ncopies;
static bool reachable[COPIES_MAX]; /* by a Python object that somebody else holds */

static bool readable(const void *at, void *to, size_t len)
{
    return sys_read_self(g.pid, to, at, len) == (long)len;
}

/* The armed page of the process that made it has the mark. */
static bool is_copy(const struct mp_boot *b)
{
    uint32_t mark = 0;

    if (b->armed && readable((const char *)(uintptr_t)b->armed + 4, &mark, sizeof(mark)))
        return mark != MP_ARMED_MARK;
    return b->owner_pid != g.pid;
}

static void look_at(uint64_t page)
{
    struct mp_boot b;
    char magic[8];

    if (!readable((void *)(uintptr_t)page, magic, 8) || memcmp(magic, MP_REGION_MAGIC, 8) ||
        !readable((void *)(uintptr_t)(page + MP_BOOT_OFF), &b, sizeof(b)))
        return;
    if (b.magic != MP_BOOT_MAGIC || b.abi != MP_ABI || b.size != sizeof(b) || b.region_base != page || !is_copy(&b))
        return;
    /* The fork may have come before the raw thread's first act. */
    if (sys_mprotect((void *)(uintptr_t)(page + MP_BOOT_OFF), MP_BOOT_SIZE, PROT_READ | PROT_WRITE) < 0)
        return;
    if (ncopies < COPIES_MAX)
        copies[ncopies++] = (struct mp_boot *)(uintptr_t)(page + MP_BOOT_OFF);
}

/* Every page: the kernel merges neighbours, so a region may begin inside. */
static bool look_in(const struct maps_line *l, void *arg)
{
    (void)arg;
    for (uint64_t at = l->lo, n = 0; l->exec && l->anon && at < l->hi && n < PAGES_MAX; at += MP_PAGE, n++)
        look_at(at);
    return false;
}

void copies_find(void)
{
    ncopies = 0;
    memset(reachable, 0, sizeof(reachable));
    maps_each(look_in, NULL);
}

/* The references of an agent without its thread are given back here. An object that
 * somebody else holds may be called again, or looked at by the garbage collector. */
void copies_forget(bool hooks_gone)
{
    for (unsigned i = 0; i < ncopies; i++) {
        reachable[i] = !hooks_gone;
        for (unsigned k = 0; hooks_gone && k < MP_CALLBACKS; k++) {
            PyObj *o = (PyObj *)(uintptr_t)copies[i]->callback[k];

            if (copies[i]->callback[k] == MP_CALLBACK_LOST || (o && py_refcount(o) != 1)) {
                reachable[i] = true;
            } else if (o) {
                copies[i]->callback[k] = 0;
                py_decref(o);
            }
        }
    }
}

/* libc keeps its threads with a stack of their makers' on a list that runs through
 * their TCBs; our own is on it. Its fork takes those off that are not in the child,
 * but a fork that is a bare system call does not. struct pthread: `list` stands right
 * before `tid` (nptl/descr.h, from 2.4 on). False: not listed, and the whole list was seen. */
static bool listed_once(uint64_t lo, uint64_t hi)
{
    const uint64_t self = (uint64_t)(uintptr_t)tcb_now() + g.tid_offset - 16;
    uint64_t link[2], at = self, before;

    for (unsigned n = 0; n < THREADS_MAX; n++) {
        before = at;
        if (!readable((void *)(uintptr_t)at, &at, 8) || (at >= lo && at < hi) ||
            !readable((void *)(uintptr_t)at, link, sizeof(link)) || link[1] != before)
            return true;
        if (at == self)
            return false;
    }
    return true;
}

/* Threads that come and go change the list under our eyes: a few looks. */
static bool listed(uint64_t lo, uint64_t hi)
{
    bool found = true;

    for (int i = 0; found && i < 5; i++)
        found = listed_once(lo, hi);
    return found;
}

/* Takes the library away. 0 when it is not there any more. */
static int unload(struct mp_boot *b)
{
    int (*dl_close)(void *) = (int (*)(void *))(uintptr_t)g.boot->fn_dlclose;
    void *handle = (void *)(uintptr_t)b->agent_handle;

    char magic[4];

    if (!handle && b->agent_base) /* forked in the midst of dlclose, or after it */
        return readable((void *)(uintptr_t)b->agent_base, magic, 4) && !memcmp(magic, "\177ELF", 4) ? -1 : 0;
    if (!handle) /* or of dlopen */
        return b->phase == MP_PHASE_WORKER ? -1 : 0;
    b->agent_handle = 0;
    return dl_close(handle);
}

static bool release(struct mp_boot *b)
{
    void *armed = (void *)(uintptr_t)b->armed, *region = (void *)(uintptr_t)b->region_base;
    uint64_t lo = b->region_base;

    if (unload(b))
        return false;
    b->armed = 0;
    if (armed)
        sys_munmap(armed, MP_PAGE);
    return !listed(lo, lo + MP_REGION_SIZE) && sys_munmap(region, MP_REGION_SIZE) == 0;
}

static bool is_held(const struct mp_boot *b, uint64_t dev, uint64_t ino)
{
    for (int k = 0; k <= MP_HELD_WAKE; k++)
        if (b->held[k].ino == ino && b->held[k].dev == dev)
            return true;
    return false;
}

/* Sockets, pipes and the memfd have an inode of their own, so that they are known under
 * any number: the fork may have come while the loader was moving them up, or while ld.so
 * had the memfd open for itself. Not only where the block says that it is so far: its copy
 * is younger than that of the descriptors (boot.h). */
static void close_under_any_number(const struct mp_boot *b)
{
    uint64_t st[18]; /* struct stat: st_dev, st_ino ... */

    for (int fd = 0; fd < FDS_LOOKED_AT; fd++)
        if (sys3(__NR_fstat, fd, (long)st, 0) == 0 && is_held(b, st[0], st[1]))
            sys_close(fd);
}

void copies_close(void)
{
    for (unsigned i = 0; i < ncopies; i++) {
        close_under_any_number(copies[i]);
        held_close_copies(copies[i]);
    }
}

void copies_release(void)
{
    for (unsigned i = 0; i < ncopies; i++)
        if (reachable[i] || !release(copies[i]))
            mp_control_block.residue |= MP_RESIDUE_COPY;
    ncopies = 0;
}
