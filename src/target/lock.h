/* One mempulse at a time in a process: an exclusive lock per target, held while
 * anything is changed in it. flock(2) on /proc/PID/mem, because
 *   - the kernel lets only those open it who may trace the process: a bystander can't
 *     hold the lock (and keep us out);
 *   - it goes with its holder, however that ends;
 *   - it needs no file that somebody would have to remove.
 * Two mounts of proc (another container's, say) are two locks: for those there is
 * inject_find_other. */
#ifndef MP_LOCK_H
#define MP_LOCK_H

#include <sys/types.h>

#include <stdint.h>

#include "base/err.h"

/* The file that is locked, of the process that pid (or any of its threads' ids) is of;
 * CLOEXEC. Close it to give the lock up. fd or -errno (-ESRCH, -EACCES). */
int lock_open(pid_t pid) MP_MUST_CHECK;

/* Takes the lock, without waiting. 1 it is ours, 0 another one has it, -errno. */
int lock_try(int fd) MP_MUST_CHECK;

/* The process that has the lock (/proc/locks), as our pid namespace numbers it; 0
 * when that can't be told. */
pid_t lock_holder(int fd);

/* The same of the text of /proc/locks, which is cut into lines. */
pid_t lock_holder_parse(char *text, uint64_t inode);

#endif
