/* Fault points (see fault.h). The allocator is wrapped by the linker (Makefile, FAULTS). */
#include "base/fault.h"

#ifdef MP_FAULTS
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define POINTS_MAX 128

struct point {
    const char *name; /* compared by its text */
    int kind;
    unsigned passed;
};

/* Passed by one thread at a time: the main thread waits for the tracing one. */
static struct point points[POINTS_MAX];
static atomic_uint allocations;

static void note(const char *name, int kind, unsigned n)
{
    const char *path = getenv("MEMPULSE_FAULT_LIST");
    char line[96];
    int fd, len;

    if (!path || (fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600)) < 0)
        return;
    len = snprintf(line, sizeof line, "%s-%d#%u\n", name, kind, n);
    (void)!write(fd, line, (size_t)len);
    close(fd);
}

/* What follows the passage in $MEMPULSE_FAULT: ":kill", "+:enomem"; NULL: it is not this one. */
static const char *asked(const char *name, int kind, unsigned n, unsigned *ret_from)
{
    const char *spec = getenv("MEMPULSE_FAULT");
    char head[64];
    char *end;
    int len = snprintf(head, sizeof head, "%s-%d#", name, kind);

    if (!spec || strncmp(spec, head, (size_t)len))
        return NULL;
    *ret_from = (unsigned)strtoul(spec + len, &end, 10);
    return n == *ret_from || (n > *ret_from && *end == '+') ? end : NULL;
}

static unsigned pass(const char *name, int kind)
{
    for (int i = 0; i < POINTS_MAX; i++) {
        struct point *p = &points[i];
        if (!p->name)
            *p = (struct point){name, kind, 0};
        if (p->kind == kind && !strcmp(p->name, name))
            return ++p->passed;
    }
    return 0;
}

static void slay(void)
{
    const char *target = getenv("MEMPULSE_FAULT_TARGET");

    if (target && atoi(target) > 1)
        kill(atoi(target), SIGKILL);
}

int fault_point(const char *name, int kind)
{
    unsigned n = pass(name, kind), from;
    const char *action;

    note(name, kind, n);
    action = asked(name, kind, n, &from);
    if (!action)
        return 0;
    if (!strcmp(action, ":kill"))
        kill(getpid(), SIGKILL);
    if (!strcmp(action, ":stop"))
        kill(getpid(), SIGSTOP);
    if (!strcmp(action, ":slay"))
        slay();
    return strcmp(action, ":fail") ? 0 : -EIO;
}

__attribute__((destructor)) static void tell_allocations(void)
{
    note("malloc", 0, atomic_load(&allocations));
}

static int refused(void)
{
    unsigned from;

    return asked("malloc", 0, atomic_fetch_add(&allocations, 1) + 1, &from) != NULL;
}

void *__real_malloc(size_t size);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t size);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t size);

static void *out_of_memory(void)
{
    errno = ENOMEM;
    return NULL;
}

void *__wrap_malloc(size_t size)
{
    return refused() ? out_of_memory() : __real_malloc(size);
}

void *__wrap_calloc(size_t n, size_t size)
{
    return refused() ? out_of_memory() : __real_calloc(n, size);
}

void *__wrap_realloc(void *p, size_t size)
{
    return refused() ? out_of_memory() : __real_realloc(p, size);
}
#endif
