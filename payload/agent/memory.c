/* Memory of our own: anonymous mappings, never the target's allocators. Every
 * mapping is on one list, so that leaving returns all of it.
 *
 *   +--------------------+ mapping
 *   | next, len          |  MEM_HEADER bytes
 *   +--------------------+ what mem_map returns, 64-byte aligned
 *   | content            |
 *   +--------------------+
 *
 * Invariants: written by hooks under the GIL, or by the agent while no hook is
 * installed. A forked child does not inherit them (MADV_DONTFORK): hooks look
 * at the armed word before anything in here. What is mapped while hooks run is
 * resident memory that the target did not ask for: it is counted in self_pages
 * and self_faults, and the meter subtracts it. */
#include "agent/agent.h"

struct header {
    struct header *next;
    size_t len;
};
_Static_assert(sizeof(struct header) <= MEM_HEADER, "header");

#define POOL_CHUNK (32u << 10)

static struct header *all;
static char *pool_at, *pool_end;

void mem_name(void *p, size_t len, const char *name)
{
    sys_name_mapping(p, len, name);
}

/* The linker's: where the image begins, where what is written to begins and all ends. */
extern char __ehdr_start[] __attribute__((visibility("hidden")));
extern char __bss_start[] __attribute__((visibility("hidden")));
extern char _end[] __attribute__((visibility("hidden")));

/* A hook's first use of a page of our code or data would be a page that the target's
 * thread faulted in. */
void mem_touch_image(void)
{
    volatile char *p = __ehdr_start;

    for (; p < __bss_start; p += MP_PAGE)
        (void)*p;
    for (p = (char *)((uintptr_t)__bss_start & ~(uintptr_t)(MP_PAGE - 1)); p < _end; p += MP_PAGE)
        __atomic_fetch_or(p, 0, __ATOMIC_RELAXED); /* the launcher may write there, too */
}

static void account(const struct sys_rusage *before, size_t pages)
{
    struct sys_rusage now;

    if (!g.installed)
        return;
    sys_rusage_thread(&now);
    g.self_pages += (int64_t)pages;
    if (g.cur && g.cur->tid == tid_now())
        g.cur->self_faults += (uint64_t)(now.minflt - before->minflt);
}

void *mem_map(size_t len, bool populate)
{
    struct sys_rusage before;
    struct header *h;
    long p;

    len = (len + MEM_HEADER + MP_PAGE - 1) & ~(size_t)(MP_PAGE - 1);
    sys_rusage_thread(&before);
    p = sys_mmap(len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | (populate ? MAP_POPULATE : 0));
    if (p < 0 && p > -4096)
        return NULL;
    h = (struct header *)p;
    sys_madvise(h, len, MADV_DONTFORK);
    sys_madvise(h, len, MADV_NOHUGEPAGE);
    mem_name(h, len, MP_ANON_NAME);
    h->len = len;
    h->next = all;
    all = h;
    account(&before, populate ? len / MP_PAGE : 1);
    return (char *)h + MEM_HEADER;
}

void mem_unmap(void *p)
{
    struct header *h = (struct header *)((char *)p - MEM_HEADER);
    struct header **at = &all;

    while (*at != h)
        at = &(*at)->next;
    *at = h->next;
    if (g.installed)
        g.self_pages -= (int64_t)(h->len / MP_PAGE);
    sys_munmap(h, h->len);
}

void *pool_alloc(size_t len)
{
    void *p;

    len = (len + 15) & ~(size_t)15;
    if (len > (size_t)(pool_end - pool_at)) {
        p = mem_map(POOL_CHUNK - MEM_HEADER, true);
        if (!p)
            return NULL;
        pool_at = p;
        pool_end = pool_at + POOL_CHUNK - MEM_HEADER;
    }
    p = pool_at;
    pool_at += len;
    return p;
}

void mem_release(void)
{
    while (all) {
        struct header *h = all;

        all = h->next;
        sys_munmap(h, h->len);
    }
    pool_at = pool_end = NULL;
}
