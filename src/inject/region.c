/* Building the region: loader blob, boot block, and for the raw thread a stack
 * top and a thread control block such as libc's own functions expect. */
#include "inject/region.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "inject/borrow.h"
#include "target/mem.h"
#include "target/proc.h"

/* tcbhead_t, sysdeps/x86_64/nptl/tls.h; unchanged from glibc 2.4 to 2.43 */
#define TCB_SELF_TCB 0x00
#define TCB_DTV 0x08
#define TCB_SELF 0x10
#define TCB_SYSINFO 0x20
#define TCB_STACK_GUARD 0x28
#define TCB_POINTER_GUARD 0x30
#define TCB_HEAD 0x40

#define DTV_UNALLOCATED (~0ull) /* TLS_DTV_UNALLOCATED: __tls_get_addr allocates at the first use */

#define REGION_LOWEST (1ull << 32) /* below: programs that are not PIE, and their heaps */
#define REGION_GAP (1u << 20)  /* to what lies above, should it be a stack that grows (stack_guard_gap, 256 pages) */
#define REGION_STACK_TOP 64u /* bytes of the raw stack that are written */

struct region_dtv { /* dtv_t, sysdeps/generic/dl-dtv.h */
    uint64_t value, to_free;
};

/* What is too near to a region at `at`, NULL: nothing. */
static const struct maps_entry *region_in_the_way(const struct maps *m, raddr_t at)
{
    for (size_t i = 0; i < m->count; i++)
        if (m->entry[i].hi + MP_PAGE > at && m->entry[i].lo < at + MP_REGION_SIZE + REGION_GAP)
            return &m->entry[i];
    return NULL;
}

/* The next place of the known kind below an address. */
static raddr_t region_place_below(raddr_t at)
{
    raddr_t place = (at & ~MP_REGION_PLACE_MASK) + MP_REGION_PLACE;
    return place + MP_REGION_SIZE <= at ? place : place - MP_REGION_PLACE_MASK - 1;
}

void region_places(raddr_t ret_place[PLAN_PLACES], const struct maps *m, raddr_t below)
{
    unsigned found = 0;
    memset(ret_place, 0, PLAN_PLACES * sizeof *ret_place);
    for (raddr_t at = below; found < PLAN_PLACES && at > REGION_LOWEST + MP_REGION_PLACE_MASK;) {
        raddr_t place = region_place_below(at);
        const struct maps_entry *e = region_in_the_way(m, place);
        if (!e)
            ret_place[found++] = place;
        at = e && e->lo < place ? e->lo : place;
    }
}

static void region_put64(struct region *r, uint64_t off, uint64_t value)
{
    assert(off >= r->low_off && off + 8 <= r->low_off + r->low_len);
    memcpy(r->low + (off - r->low_off), &value, sizeof value);
}

static int region_loader(struct region *r, struct mp_failure *f)
{
    uint32_t head[4];
    r->loader = inject_loader_image;
    r->loader_len = (size_t)(inject_loader_image_end - inject_loader_image);
    if (r->loader_len < sizeof head || r->loader_len > MP_LOADER_SIZE ||
        memcmp(r->loader, MP_REGION_MAGIC, 8) != 0)
        return mp_fail(f, MP_E_INTERNAL, 0, "the loader inside this mempulse is broken");
    memcpy(head, r->loader, sizeof head);
    r->entry_off = head[2];
    if (r->entry_off >= r->loader_len)
        return mp_fail(f, MP_E_INTERNAL, 0, "the loader inside this mempulse has no entry");
    return 0;
}

/* The images of the modules' TLS, where libc's layout puts them below the TCB. */
static int region_tls(struct region *r, const struct inject_plan *p, pid_t live, struct mp_failure *f)
{
    for (unsigned i = 0; i < p->tls_count; i++) {
        const struct plan_tls *m = &p->tls[i];
        if (m->tp_offset > r->tls_size || m->memsz > m->tp_offset || m->filesz > m->memsz)
            return mp_fail(f, MP_E_LIBC_LAYOUT, 0, "the static TLS layout of the target is not consistent");
        uint64_t off = r->tcb_off - m->tp_offset - r->low_off;
        int e = m->filesz ? mem_read(live, m->image, r->low + off, m->filesz) : 0;
        if (e < 0)
            return borrow_gone(p, f); /* the plan has seen it there */
    }
    return 0;
}

int region_prepare(struct region *r, const struct inject_plan *p, struct mp_failure *f)
{
    *r = (struct region){.boot = p->boot, .tls_size = p->tls_size};
    int ret = region_loader(r, f);
    if (ret < 0)
        return ret;
    /* The TCB on a page of its own serves every alignment that a module may want. */
    uint64_t below = (p->tls_size + MP_PAGE - 1) & ~(uint64_t)(MP_PAGE - 1);
    if (below + 2 * MP_PAGE + (REGION_DTV_MAX + 2) * sizeof(struct region_dtv) > MP_RAW_TLS_SIZE)
        return mp_fail(f, MP_E_LIBC_LAYOUT, 0, "the target's static TLS of %llu bytes is larger than what is provided for",
                       (unsigned long long)p->tls_size);
    r->tcb_off = MP_RAW_TLS_OFF + below;
    r->dtv_off = r->tcb_off + 2 * MP_PAGE;
    r->low_off = MP_RAW_STACK_OFF + MP_RAW_STACK_SIZE - REGION_STACK_TOP;
    r->sp_off = r->low_off;
    r->low_len = r->tcb_off + TCB_HEAD - r->low_off;
    r->low = calloc(1, r->low_len);
    if (!r->low)
        return mp_fail(f, MP_E_INTERNAL, ENOMEM, "out of memory");
    pid_t live = proc_live_task(p->facts.pid);
    if (live < 0)
        return mp_fail(f, MP_E_TARGET_EXITED, 0, "process %d has exited", (int)p->facts.pid);
    return region_tls(r, p, live, f);
}

void region_release(struct region *r)
{
    free(r->low);
    r->low = NULL;
}

/* A dtv for the raw thread: same generation and size as that of a live thread, so
 * that libc never thinks of enlarging it (which would realloc what malloc never
 * made). Modules in the static block point into ours; all others are allocated
 * should the raw thread ever touch them. 0 or -errno. */
static int region_write_dtv(struct region *r, struct tracee *t, raddr_t base, raddr_t tcb, raddr_t dtv)
{
    struct region_dtv d[REGION_DTV_MAX + 2];
    int ret = tracee_read(t, dtv - sizeof *d, d, 2 * sizeof *d);
    if (ret < 0 || d[0].value > REGION_DTV_MAX)
        return ret < 0 ? ret : -E2BIG;
    size_t n = (size_t)d[0].value + 2; /* dtv[-1] counts; dtv[0] is the generation */
    ret = tracee_read(t, dtv - sizeof *d, d, n * sizeof *d);
    if (ret < 0)
        return ret;
    for (size_t i = 2; i < n; i++) {
        bool is_static = d[i].value >= tcb - r->tls_size && d[i].value < tcb;
        d[i].value = is_static ? base + r->tcb_off - (tcb - d[i].value) : DTV_UNALLOCATED;
        d[i].to_free = 0;
    }
    return tracee_write(t, base + r->dtv_off, d, n * sizeof *d);
}

int region_write(struct region *r, struct tracee *t, raddr_t base, raddr_t tcb)
{
    uint64_t head[TCB_HEAD / 8];
    raddr_t our_tcb = base + r->tcb_off;
    int ret = tracee_read(t, tcb, head, sizeof head);
    if (ret < 0)
        return ret;
    if (head[TCB_SELF / 8] != tcb)
        return -EPROTO; /* the thread has no TCB of libc's: made by hand, as ours is */
    bool has_dtv = region_write_dtv(r, t, base, tcb, head[TCB_DTV / 8]) == 0;
    region_put64(r, r->tcb_off + TCB_SELF_TCB, our_tcb);
    region_put64(r, r->tcb_off + TCB_DTV, has_dtv ? base + r->dtv_off + sizeof(struct region_dtv) : 0);
    region_put64(r, r->tcb_off + TCB_SELF, our_tcb);
    region_put64(r, r->tcb_off + PLAN_TCB_MULTIPLE_THREADS, 1);
    region_put64(r, r->tcb_off + TCB_SYSINFO, head[TCB_SYSINFO / 8]);
    region_put64(r, r->tcb_off + TCB_STACK_GUARD, head[TCB_STACK_GUARD / 8]);
    region_put64(r, r->tcb_off + TCB_POINTER_GUARD, head[TCB_POINTER_GUARD / 8]);
    region_put64(r, r->sp_off, base + r->entry_off); /* what the gadget's `ret` finds */

    r->boot.region_base = base;
    r->boot.region_len = MP_REGION_SIZE;
    r->boot.raw_tcb = our_tcb;
    ret = tracee_write(t, base, r->loader, r->loader_len);
    if (ret == 0)
        ret = tracee_write(t, base + MP_BOOT_OFF, &r->boot, sizeof r->boot);
    if (ret == 0)
        ret = tracee_write(t, base + r->low_off, r->low, r->low_len);
    return ret;
}
