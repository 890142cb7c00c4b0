/* Marks by which our own are known: the memfd's name, the anonymous mappings'
 * names (where the kernel can name them, 5.17), the first bytes of a boot region
 * and of a control block. */
#include "inject/ours.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "boot.h"
#include "target/mem.h"
#include "thunk_page.h"

enum {
    PAGES_LOOKED_AT = 1024,      /* per anonymous executable mapping (a JIT may have gigabytes) */
    PAGES_LOOKED_AT_ALL = 65536, /* in all of them: a target may have made as many mappings as it liked */
    DATA_LOOKED_AT = 1 << 20,    /* bytes of the agent's data, far more than it has */
    DATA_CHUNK = 1 << 14,        /* of them at a time */
    DATA_LOOKED_AT_ALL = 64      /* mappings that bear the agent's name; its own are a few */
};

#define MEMFD_PREFIX "/memfd:" MP_ANON_NAME
#define ANON_PREFIX "[anon:" MP_ANON_NAME

static bool has_prefix(const char *s, const char *prefix) { return !strncmp(s, prefix, strlen(prefix)); }

bool ours_is_region(pid_t pid, raddr_t at)
{
    char head[sizeof(MP_REGION_MAGIC) - 1];
    return mem_read(pid, at, head, sizeof(head)) == 0 && !memcmp(head, MP_REGION_MAGIC, sizeof(head));
}

static bool may_hold_region(const struct maps_entry *e)
{
    return !e->inode && e->read && e->exec && (!e->name[0] || has_prefix(e->name, ANON_PREFIX));
}

/* The data page of a thunk follows its code page: they are one mapping made in two. */
static bool is_thunk(pid_t pid, const struct maps_entry *code, const struct maps_entry *data)
{
    char head[sizeof(THUNK_MAGIC) - 1];
    return !code->inode && code->exec && !code->write && !data->inode && data->write && !data->exec &&
           code->hi == data->lo && mem_read(pid, data->lo, head, sizeof(head)) == 0 &&
           !memcmp(head, THUNK_MAGIC, sizeof(head));
}

static void find_thunks(struct ours *ret, pid_t pid, const struct maps *m)
{
    size_t i;
    for (i = 0; i + 1 < m->count && ret->thunk_count < OURS_THUNKS_MAX; i++)
        if (is_thunk(pid, &m->entry[i], &m->entry[i + 1]))
            ret->thunk[ret->thunk_count++] = m->entry[i].hi - MP_PAGE;
}

static bool overlaps(const struct maps_entry *e, const raddr_t *at, size_t count, uint64_t size)
{
    size_t i;
    for (i = 0; i < count; i++)
        if (!e->inode && e->lo < at[i] + size && e->hi > at[i])
            return true;
    return false;
}

/* A region that was mapped and never written (see MP_REGION_PLACE). */
static bool is_blank_region(pid_t pid, const struct maps_entry *e)
{
    uint64_t head[2];
    return (e->lo & MP_REGION_PLACE_MASK) == MP_REGION_PLACE && e->hi - e->lo == MP_REGION_SIZE && !e->write &&
           mem_read(pid, e->lo, &head[0], 8) == 0 && mem_read(pid, e->lo + MP_BOOT_OFF, &head[1], 8) == 0 &&
           !head[0] && !head[1];
}

/* What the boot block of a region names: in a forked child nothing else tells whose it is. */
static void find_named(struct ours *ret, pid_t pid, raddr_t region)
{
    struct mp_boot b;
    if (mem_read(pid, region + MP_BOOT_OFF, &b, sizeof(b)) < 0 || b.magic != MP_BOOT_MAGIC || b.abi != MP_ABI ||
        b.size != sizeof(b) || b.region_base != region)
        return;
    if (b.armed)
        ret->armed[ret->armed_count++] = b.armed;
    for (int i = 0; i < MP_HELD_COUNT; i++)
        if (b.held[i].ino)
            ret->held[ret->held_count++] = b.held[i];
}

void ours_find(struct ours *ret, pid_t pid, const struct maps *m)
{
    unsigned all = 0;
    size_t i;
    *ret = (struct ours){0};
    find_thunks(ret, pid, m);
    for (i = 0; i < m->count; i++) {
        const struct maps_entry *e = &m->entry[i];
        raddr_t at;
        unsigned pages = 0;
        if (!may_hold_region(e))
            continue;
        if (ret->region_count < OURS_REGIONS_MAX && is_blank_region(pid, e))
            ret->region[ret->region_count++] = e->lo;
        /* Every page: the kernel merges neighbours, so a region may begin inside. */
        for (at = e->lo; at < e->hi && pages++ < PAGES_LOOKED_AT && all++ < PAGES_LOOKED_AT_ALL; at += MP_PAGE)
            if (ret->region_count < OURS_REGIONS_MAX && ours_is_region(pid, at))
                ret->region[ret->region_count++] = at;
    }
    for (i = 0; i < ret->region_count; i++)
        find_named(ret, pid, ret->region[i]);
}

bool ours_mapping(const struct ours *o, const struct maps_entry *e)
{
    return has_prefix(e->name, MEMFD_PREFIX) || has_prefix(e->name, ANON_PREFIX) ||
           overlaps(e, o->region, o->region_count, MP_REGION_SIZE) ||
           overlaps(e, o->armed, o->armed_count, MP_PAGE) ||
           overlaps(e, o->thunk, o->thunk_count, OURS_THUNK_SIZE);
}

bool ours_fd(const struct ours *o, pid_t pid, int fd, const char *target)
{
    char path[64];
    struct stat st;
    size_t i;
    if (has_prefix(target, MEMFD_PREFIX))
        return true;
    for (i = 0; i < o->held_count; i++) {
        if (o->held[i].fd != fd)
            continue;
        snprintf(path, sizeof(path), "/proc/%d/fd/%d", (int)pid, fd);
        if (!stat(path, &st) && st.st_ino == o->held[i].ino && st.st_dev == o->held[i].dev)
            return true;
    }
    return false;
}

int ours_read_control(pid_t pid, raddr_t at, struct mp_control *ret)
{
    struct mp_control c = {0};
    ssize_t n = mem_read_some(pid, at, &c, sizeof(c));
    size_t i;
    if (n < 0)
        return (int)n;
    if ((size_t)n < offsetof(struct mp_control, state) || c.magic != MP_CONTROL_MAGIC)
        return -ENOENT;
    for (i = 0; i < MP_PATTERNS_MAX; i++) { /* foreign strings end here */
        c.options.root.glob[i][MP_PATTERN_MAX - 1] = '\0';
        c.options.function.glob[i][MP_PATTERN_MAX - 1] = '\0';
        c.options.module.glob[i][MP_PATTERN_MAX - 1] = '\0';
        c.options.exclude.glob[i][MP_PATTERN_MAX - 1] = '\0';
    }
    *ret = c;
    return c.abi != MP_ABI || c.size != sizeof(c) || (size_t)n < sizeof(c) ? -EPROTONOSUPPORT : 0;
}

static bool scan_data(pid_t pid, const struct maps_entry *e, raddr_t *ret)
{
    raddr_t end = e->hi - e->lo < DATA_LOOKED_AT ? e->hi : e->lo + DATA_LOOKED_AT;
    uint64_t word[DATA_CHUNK / sizeof(uint64_t)];
    ssize_t n = DATA_CHUNK;
    /* Mappings begin at a page, so multiples of 64 here are multiples of 64 there. */
    for (raddr_t at = e->lo; at < end && n == DATA_CHUNK; at += DATA_CHUNK) {
        n = mem_read_some(pid, at, word, end - at < DATA_CHUNK ? (size_t)(end - at) : DATA_CHUNK);
        for (ssize_t i = 0; i + (ssize_t)sizeof(*word) <= n; i += 64) {
            if (word[i / (ssize_t)sizeof(*word)] != MP_CONTROL_MAGIC)
                continue;
            *ret = at + (raddr_t)i;
            return true;
        }
    }
    return false;
}

int ours_next_control(pid_t pid, const struct maps *m, struct ours_walk *walk, raddr_t *ret_addr)
{
    bool agent_before = false; /* .bss: an anonymous mapping right behind the agent's data */
    while (walk->at < m->count && walk->scanned < DATA_LOOKED_AT_ALL) {
        size_t i = walk->at++;
        const struct maps_entry *e = &m->entry[i];
        bool agent = has_prefix(e->name, "/memfd:" MP_AGENT_NAME);
        bool bss = agent_before && !e->inode && e->lo == m->entry[i - 1].hi;
        agent_before = agent;
        if (!(agent || bss) || !e->write)
            continue;
        walk->scanned++;
        if (scan_data(pid, e, ret_addr))
            return 1;
    }
    return 0;
}

int ours_find_control(pid_t pid, const struct maps *m, raddr_t *ret_addr)
{
    struct ours_walk walk = {0};
    return ours_next_control(pid, m, &walk, ret_addr);
}
