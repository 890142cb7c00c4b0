/* Getting rid of what is in a target: an agent of another launcher, hooks whose
 * agent is dead (a forked child has such), inert pages. Shared by detach and by
 * an inject that finds the place taken. */
#ifndef MP_CMD_RESIDUE_H
#define MP_CMD_RESIDUE_H

#include <stddef.h>

#include "cmd.h"
#include "cmd_session.h"
#include "inject/inject.h"

/* Asks a living agent to leave through its control block and waits until it has
 * unhooked, at most timeout_ns; a->control is then as it was last read. 0, or negative
 * enum mp_err (MP_E_RESIDUE: it is still there), f->changed_target set once it was asked. */
int residue_detach(const struct talk *t, pid_t pid, struct inject_agent *a, uint64_t timeout_ns, struct mp_failure *f)
    MP_MUST_CHECK;

/* Injects an agent that hooks nothing, takes out of the interpreter what an
 * earlier one left, and leaves; then unmaps inert pages. 0 or negative enum mp_err. */
int residue_cure(const struct talk *t, pid_t pid, uint64_t timeout_ns, struct mp_failure *f) MP_MUST_CHECK;

/* What stays and why, in one or several lines of text. */
void residue_describe(const struct session *s, const struct inject_diff *d, char *buf, size_t len);

#endif
