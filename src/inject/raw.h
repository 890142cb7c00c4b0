/* The raw thread, from its first stop to its release: it runs the loader up to
 * the rendezvous (boot.h), where its descriptors are taken and filled. */
#ifndef MP_RAW_H
#define MP_RAW_H

#include "inject/borrow.h"
#include "inject/channel.h"

/* Attends to the raw thread tid, which remote_clone left seized; b is what the thread that
 * made it was borrowed with, of which others may have to be let go of meanwhile; where it is
 * held (b->hold_ns) it is given back when libc has noted its threads, or when that takes too long (MP_E_NO_SAFE_POINT). On success the
 * agent's image is in the target's memfd, the thread runs free, waiting for the
 * first byte, and *ret_channel is the launcher's end, the caller's to close. On failure nothing of the launcher's is left open, and the loader
 * leaves by itself; negative enum mp_err. */
int raw_attend(struct borrow *b, pid_t tid, raddr_t region_base, struct channel *ret_channel,
               struct mp_failure *f) MP_MUST_CHECK;

#endif
