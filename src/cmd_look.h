/* A look at a process that may take for ever (see cmd_watch.h), by a child of ours: it is
 * given up alone, and whoever looks at many goes on with the next. */
#ifndef MP_CMD_LOOK_H
#define MP_CMD_LOOK_H

#include <sys/types.h>

#include "inject/inject.h"

/* inject_find_agent, with an end: 5 s in which we run; half of the time before for each that
 * did not answer, since one user may have many of them, but 250 ms at least. Returns what it
 * returns; -MP_E_STALLED when the time is over; -MP_E_INTERNAL when there can be no child, or
 * it has died of what it read. The child is kept for the next call, and ends with us. */
int cmd_look(pid_t pid, struct inject_agent *ret, struct mp_failure *f) MP_MUST_CHECK;

#endif
