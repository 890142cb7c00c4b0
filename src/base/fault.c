/* Fault points (see fault.h). The allocator is wrapped by the linker (Makefile, FAULTS). */
#include "base/fault.h"

#ifdef MP_FAULTS
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define POINTS_MAX 128
#define FAULTS_MAX 2
#define BURY_MS 200
#define SELF_MS 2 /* it may be at it, or done, when the step begins */

struct point {
    const char *name; /* compared by its text */
    int kind;
    unsigned passed;
};

struct action {
    char text[16];
};

/* Passed by one thread at a time: the main thread waits for the tracing one. */
static struct point points[POINTS_MAX];
static atomic_uint allocations;
static atomic_flag told[FAULTS_MAX];

static void note(const char *path, const char *name, int kind, unsigned n)
{
    char line[96];
    int fd, len;

    if (!path || (fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600)) < 0)
        return;
    len = snprintf(line, sizeof line, "%s-%d#%u\n", name, kind, n);
    (void)!write(fd, line, (size_t)len);
    close(fd);
}

/* What follows the passage in one that is asked for: ":kill", "+:enomem"; NULL: it is another. */
static const char *asked_in(const char *spec, const char *head, unsigned n)
{
    char *end;
    unsigned from;

    if (strncmp(spec, head, strlen(head)))
        return NULL;
    from = (unsigned)strtoul(spec + strlen(head), &end, 10);
    if (n != from && (n < from || *end != '+'))
        return NULL;
    return end + (*end == '+');
}

/* The action at this passage: ":kill"; "": none. The first time that each comes true is told. */
static struct action asked(const char *name, int kind, unsigned n)
{
    struct action action = {""};
    const char *spec = getenv("MEMPULSE_FAULT"), *found = NULL;
    char head[64];
    int at = 0;

    snprintf(head, sizeof head, "%s-%d#", name, kind);
    while (spec && !(found = asked_in(spec, head, n))) {
        spec = strchr(spec, ',');
        spec += spec != NULL;
        at++;
    }
    if (found) {
        snprintf(action.text, sizeof action.text, "%.*s", (int)strcspn(found, ","), found);
        if (at < FAULTS_MAX && !atomic_flag_test_and_set(&told[at]))
            note(getenv("MEMPULSE_FAULT_FIRED"), name, kind, n);
    }
    return action;
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

/* A signal to the target; with `wait_ms`, until it has ended: a thread of it that we trace
 * may keep it from that. */
static void strike(int number, int wait_ms)
{
    const char *target = getenv("MEMPULSE_FAULT_TARGET");
    struct pollfd end = {-1, POLLIN, 0};

    if (!target || atoi(target) <= 1)
        return;
    end.fd = (int)syscall(SYS_pidfd_open, atoi(target), 0);
    kill(atoi(target), number);
    if (end.fd >= 0) {
        poll(&end, 1, wait_ms);
        close(end.fd);
    }
}

static const struct timespec doze = {.tv_nsec = 500000000};

static const struct {
    const char *action;
    int number, wait_ms;
} strikes[] = {
    {":slay", SIGKILL, 0},     {":bury", SIGKILL, BURY_MS},  {":exit", SIGUSR1, SELF_MS},
    {":exec", SIGUSR2, SELF_MS}, {":crash", SIGSEGV, SELF_MS},
};

int fault_point(const char *name, int kind)
{
    unsigned n = pass(name, kind);
    struct action asked_for;
    const char *action;

    note(getenv("MEMPULSE_FAULT_LIST"), name, kind, n);
    asked_for = asked(name, kind, n);
    action = asked_for.text;
    if (!strcmp(action, ":kill"))
        kill(getpid(), SIGKILL);
    if (!strcmp(action, ":stop"))
        raise(SIGSTOP); /* to this thread: sent to the process, another one takes it, and this one runs on */
    if (!strcmp(action, ":doze"))
        nanosleep(&doze, NULL);
    for (size_t i = 0; i < sizeof(strikes) / sizeof(strikes[0]); i++)
        if (!strcmp(action, strikes[i].action))
            strike(strikes[i].number, strikes[i].wait_ms);
    return strcmp(action, ":fail") ? 0 : -EIO;
}

__attribute__((destructor)) static void tell_allocations(void)
{
    note(getenv("MEMPULSE_FAULT_LIST"), "malloc", 0, atomic_load(&allocations));
}

static bool started;

__attribute__((constructor)) static void start(void)
{
    started = true; /* what libc allocates for itself before main, it must have */
}

static int refused(void)
{
    if (!started)
        return 0;
    return *asked("malloc", 0, atomic_fetch_add(&allocations, 1) + 1).text;
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
