/* Waiting for one's turn in a target (target/lock.h). */
#ifndef MP_CMD_LOCK_H
#define MP_CMD_LOCK_H

#include <stdint.h>

#include "cmd.h"

/* Waits until no other mempulse is at work in pid, at most until deadline_ns
 * (CLOCK_MONOTONIC), and keeps others out until *ret_fd is closed. wake_fd (-1: none)
 * readable ends the wait (-MP_E_INTERRUPTED). Says so when it waits. 0; -MP_E_BUSY_MEMPULSE. A process
 * that can't be locked can't be changed either: *ret_fd is -1 then, and what comes
 * next has the words for it. */
int cmd_lock(const struct talk *t, pid_t pid, uint64_t deadline_ns, int wake_fd, int *ret_fd, struct mp_failure *f)
    MP_MUST_CHECK;

/* The same without waiting: the fd, or -1 when another one is at work. */
int cmd_lock_now(pid_t pid);

/* Closes *fd if it is open, and makes it -1. */
void cmd_unlock(int *fd);

#endif
