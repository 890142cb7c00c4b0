/* An end to waits that have none. To read a process's memory or its files is to wait for
 * whoever has the page: a FUSE or NFS server, a userfaultfd. Only a fatal signal ends such
 * a wait, and a target may mean it. */
#ifndef MP_CMD_WATCH_H
#define MP_CMD_WATCH_H

#include <stdint.h>

#include "cmd.h"

#define CMD_WATCH_LOOK_NS 5000000000ull /* for what is a matter of milliseconds */

/* Unless this is called again, or cmd_watch_off, within ns of time in which we run (a
 * stopped launcher's clock stands still), the program ends: STALLED is told of pid, exit
 * code 8. touched: what has been done to the target so far is not known. It may end at any
 * point (docs/ARCHITECTURE.md, 4). Signals that are to go to nobody else must be blocked
 * before the first call. *t must live on. */
void cmd_watch(const struct talk *t, pid_t pid, uint64_t ns, bool touched);
void cmd_watch_off(void);

/* The failure that is told then. Returns -MP_E_STALLED. */
int cmd_watch_stalled(pid_t pid, struct mp_failure *f);

#endif
