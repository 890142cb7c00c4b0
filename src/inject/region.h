/* The region's contents, made ready before the target is stopped: all that is
 * left for the pause is a handful of words that depend on where it lies. */
#ifndef MP_REGION_H
#define MP_REGION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "inject/plan.h"
#include "target/maps.h"
#include "target/tracee.h"

#define REGION_DTV_MAX 1024 /* modules with TLS: more than this, and the raw thread gets no dtv */

struct region {
    const unsigned char *loader;
    size_t loader_len;
    uint64_t entry_off; /* where the raw thread starts, from the base */
    struct mp_boot boot;

    /* One stretch: top of the raw stack, static TLS, TCB. */
    unsigned char *low;
    size_t low_len;
    uint64_t low_off;  /* of low, from the base */
    uint64_t sp_off;   /* the raw thread's first stack pointer */
    uint64_t tcb_off;
    uint64_t dtv_off;
    uint64_t tls_size; /* bytes below the TCB that the target's threads have */
};

/* Free places of the known kind (MP_REGION_PLACE), a page from what is mapped below and 1 MiB
 * from what is above, going down from `below`; the rest is 0. */
void region_places(raddr_t ret_place[PLAN_PLACES], const struct maps *m, raddr_t below);

/* Prepares; reads the TLS images from the target. 0 or a negative enum mp_err. */
int region_prepare(struct region *r, const struct inject_plan *p, struct mp_failure *f) MP_MUST_CHECK;
void region_release(struct region *r);

/* Writes it into the mapping at base, through a thread that is stopped and whose
 * TCB is at tcb: guards and dtv are taken from there. 0 or -errno. */
int region_write(struct region *r, struct tracee *t, raddr_t base, raddr_t tcb) MP_MUST_CHECK;

#endif
