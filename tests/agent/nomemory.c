/* An allocator of CPython's that refuses one allocation of whoever is not the thread that
 * armed it: of an agent, in a process whose only other thread that is. For nomemory.py. */
#define _GNU_SOURCE
#include <stdatomic.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <unistd.h>

#define DOMAINS 3 /* raw, mem, obj: PyMemAllocatorDomain */

struct allocator { /* PyMemAllocatorEx, Include/cpython/pymem.h */
    void *ctx;
    void *(*malloc)(void *ctx, size_t size);
    void *(*calloc)(void *ctx, size_t n, size_t size);
    void *(*realloc)(void *ctx, void *p, size_t size);
    void (*free)(void *ctx, void *p);
};

typedef void (*allocator_fn)(int domain, struct allocator *a);

static struct allocator was[DOMAINS];
static long self;
static atomic_uint made, refused_at;

static int refused(void)
{
    return syscall(SYS_gettid) != self && atomic_fetch_add(&made, 1) + 1 == atomic_load(&refused_at);
}

static void *a_malloc(void *ctx, size_t size)
{
    struct allocator *a = ctx;
    return refused() ? NULL : a->malloc(a->ctx, size);
}

static void *a_calloc(void *ctx, size_t n, size_t size)
{
    struct allocator *a = ctx;
    return refused() ? NULL : a->calloc(a->ctx, n, size);
}

static void *a_realloc(void *ctx, void *p, size_t size)
{
    struct allocator *a = ctx;
    return refused() ? NULL : a->realloc(a->ctx, p, size);
}

static void a_free(void *ctx, void *p)
{
    struct allocator *a = ctx;
    a->free(a->ctx, p);
}

/* Under the GIL. n: 1 for the first allocation, 0 for none. */
void nomemory_arm(allocator_fn get, allocator_fn set, unsigned n)
{
    self = syscall(SYS_gettid);
    atomic_store(&made, 0);
    atomic_store(&refused_at, n);
    for (int d = 0; d < DOMAINS; d++) {
        struct allocator ours = {&was[d], a_malloc, a_calloc, a_realloc, a_free};
        get(d, &was[d]);
        set(d, &ours);
    }
}

/* How many others have made. */
unsigned nomemory_disarm(allocator_fn set)
{
    for (int d = 0; d < DOMAINS; d++)
        set(d, &was[d]);
    return atomic_load(&made);
}
