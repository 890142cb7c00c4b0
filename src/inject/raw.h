/* The raw thread, from its first stop to its release: it runs the loader up to
 * the rendezvous (boot.h), where its descriptors are taken and filled. */
#ifndef MP_RAW_H
#define MP_RAW_H

#include <stdio.h>

#include "inject/channel.h"
#include "inject/plan.h"
#include "target/tracee.h"

/* Attends to the raw thread tid, which remote_clone left seized. On success the
 * agent's image is in the target's memfd, the thread runs free, waiting for the
 * first byte, and *ret_channel is the launcher's end, the caller's to close. On failure nothing of the launcher's is left open, and the loader
 * leaves by itself; negative enum mp_err. */
int raw_attend(const struct inject_plan *p, pid_t tid, raddr_t region_base, FILE *log, struct channel *ret_channel,
               struct mp_failure *f) MP_MUST_CHECK;

#endif
