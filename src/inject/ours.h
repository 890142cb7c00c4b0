/* Recognising what belongs to mempulse inside a process, from its maps alone. */
#ifndef MP_OURS_H
#define MP_OURS_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "base/err.h"
#include "control.h"
#include "target/maps.h"
#include "target/raddr.h"

#define OURS_REGIONS_MAX 8
#define OURS_THUNKS_MAX 8
#define OURS_THUNK_SIZE (2 * MP_PAGE) /* payload/agent/thunk.h: a page of code, a page of data */

struct ours {
    raddr_t region[OURS_REGIONS_MAX]; /* boot regions found by MP_REGION_MAGIC, MP_REGION_SIZE each */
    size_t region_count;
    raddr_t thunk[OURS_THUNKS_MAX]; /* code pages whose data page begins with THUNK_MAGIC */
    size_t thunk_count;
    raddr_t armed[OURS_REGIONS_MAX]; /* armed pages, as the regions' boot blocks have them */
    size_t armed_count;
    struct mp_held held[OURS_REGIONS_MAX * MP_HELD_COUNT]; /* their descriptors */
    size_t held_count;
};

/* Whether a region of ours, with its loader, begins there. pid: any live thread of the process. */
bool ours_is_region(pid_t pid, raddr_t at);

/* Looks for boot regions (MP_REGION_MAGIC at a page of an anonymous executable
 * mapping) and thunks. Marks, not names: before 5.17, or without
 * CONFIG_ANON_VMA_NAME, anonymous mappings have none. pid: a live thread. Never fails: what cannot be read is not ours. */
void ours_find(struct ours *ret, pid_t pid, const struct maps *m);

/* A mapping that is ours: named /memfd:mempulse*, [anon:mempulse*], or a part of a region or thunk. */
bool ours_mapping(const struct ours *o, const struct maps_entry *e);

/* A descriptor of pid that is ours: by the target of its link, or because a boot block
 * names it and it is still what it was then. */
bool ours_fd(const struct ours *o, pid_t pid, int fd, const char *target);

/* Reads a control block at its address. 0; -ENOENT when there is none; -EPROTONOSUPPORT
 * when it is another version's (*ret holds what could be read); -errno. */
int ours_read_control(pid_t pid, raddr_t at, struct mp_control *ret) MP_MUST_CHECK;

/* Finds the control block in the agent's writable mappings. 1 and *ret_addr, or 0. */
int ours_find_control(pid_t pid, const struct maps *m, raddr_t *ret_addr);

/* The same for each of several agents: *walk is zeroed at first, and where to go on after
 * a find. Only so many mappings are looked into that a target can't make it last. */
struct ours_walk {
    size_t at;        /* among the mappings */
    unsigned scanned; /* mappings looked into */
};
int ours_next_control(pid_t pid, const struct maps *m, struct ours_walk *walk, raddr_t *ret_addr);

#endif
