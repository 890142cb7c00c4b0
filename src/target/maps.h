/* /proc/PID/maps: what is mapped where. Parsed from text, so that hostile text
 * can be tried on it; read through a thread that still has memory. */
#ifndef MP_MAPS_H
#define MP_MAPS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"
#include "target/raddr.h"

struct maps_entry {
    raddr_t lo, hi;
    uint64_t offset; /* in the file */
    uint64_t inode;  /* 0: no file */
    uint32_t dev_major, dev_minor;
    bool read, write, exec, shared;
    bool deleted;     /* the name ended in " (deleted)", which is cut off */
    const char *name; /* "" when anonymous; newlines as themselves; lives as long as the struct maps */
};

struct maps {
    struct maps_entry *entry; /* by rising address */
    size_t count;
    char *text; /* holds the names */
    size_t skipped; /* lines that were not understood */
};

/* Parses len bytes of maps text. Lines that are no mapping are counted in
 * skipped. 0 or -ENOMEM. The caller releases *ret_maps. */
int maps_parse(struct maps *ret_maps, const char *text, size_t len) MP_MUST_CHECK;

/* Reads and parses the maps of pid; pid may be any live thread's id. 0, -ESRCH,
 * -EACCES (PTRACE_MODE_READ refused), another -errno. An empty file (zombie,
 * kernel thread) gives count 0. */
int maps_read(struct maps *ret_maps, pid_t pid) MP_MUST_CHECK;
void maps_release(struct maps *m); /* harmless on a zeroed or released struct */

/* The mapping that holds addr, or NULL. */
const struct maps_entry *maps_at(const struct maps *m, raddr_t addr);

/* Whether both map the same file (never true of anonymous mappings). */
bool maps_same_file(const struct maps_entry *a, const struct maps_entry *b);

/* The next entry after prev (NULL: the first) that is the FIRST executable
 * mapping of its file: a walk over the loaded modules. NULL at the end. */
const struct maps_entry *maps_next_module(const struct maps *m, const struct maps_entry *prev);

/* The next entry after prev (NULL: the first) with this exact name, or NULL. */
const struct maps_entry *maps_next_named(const struct maps *m, const struct maps_entry *prev, const char *name);

/* The part of the name after the last slash. */
const char *maps_basename(const struct maps_entry *e);

#endif
