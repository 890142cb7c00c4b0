/* probes: what three probes of memory say of pages whose number is known, one JSON object
 * a line. Told apart from the agent's own self-test: this one knows the truth, and threads.
 *
 *   statm    /proc/self/statm, resident            (what RSS columns come from)
 *   minflt   getrusage(RUSAGE_THREAD), ru_minflt   (OWN)
 *   rollup   /proc/self/smaps_rollup, Rss
 *   synced   statm after the reading thread has given back a page (meter.c of the agent)
 *
 * One page after the other is touched, and after each the probes' change since the first
 * is compared with the pages touched: `low` and `high` are the extremes of the difference.
 * Whose: one thread's that reads itself; several threads', read by one that touched none. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#define PAGE 4096
#define PAGES 300
#define THREADS 4

enum probe { STATM, MINFLT, ROLLUP, SYNCED, PROBES };
static const char *const names[PROBES] = { "statm", "minflt", "rollup", "synced" };
static char scratch[PAGE] __attribute__((aligned(PAGE)));
static int statm_fd, rollup_fd;
static char buf[8192];

static long read_probe(enum probe probe)
{
    struct rusage ru;
    ssize_t n;

    if (probe == MINFLT) {
        getrusage(RUSAGE_THREAD, &ru);
        return ru.ru_minflt;
    }
    if (probe == SYNCED)
        madvise(scratch, PAGE, MADV_DONTNEED);
    n = pread(probe == ROLLUP ? rollup_fd : statm_fd, buf, sizeof(buf) - 1, 0);
    buf[n > 0 ? n : 0] = 0;
    if (probe != ROLLUP)
        return strchr(buf, ' ') ? atol(strchr(buf, ' ')) : LONG_MIN;
    return strstr(buf, "\nRss:") ? atol(strstr(buf, "\nRss:") + 5) / (PAGE / 1024) : LONG_MIN;
}

static volatile char *fresh(size_t pages)
{
    char *p = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (p == MAP_FAILED)
        exit(2);
    madvise(p, pages * PAGE, MADV_NOHUGEPAGE);
    return p;
}

static void touch(volatile char *p, int page)
{
    p[(size_t)page * PAGE] = 1;
}

static void tell(const char *who, enum probe probe, long low, long high)
{
    printf("{\"t\": \"probe\", \"who\": \"%s\", \"probe\": \"%s\", \"pages\": %d, \"low\": %ld, \"high\": %ld}\n", who,
           names[probe], PAGES, low, high);
    fflush(stdout);
}

/* The calling thread touches and reads. */
static void own(const char *who, enum probe probe)
{
    volatile char *p = fresh(PAGES);
    long low = 0, high = 0, first = read_probe(probe);

    for (int i = 0; i < PAGES; i++) {
        touch(p, i);
        long off = read_probe(probe) - first - (i + 1);

        low = off < low ? off : low;
        high = off > high ? off : high;
    }
    tell(who, probe, low, high);
    munmap((void *)p, PAGES * PAGE);
}

/* --- other threads ------------------------------------------------------------------ */

static pthread_barrier_t barrier;
static volatile char *shared[THREADS];
static volatile int leave;

static void *toucher(void *arg)
{
    volatile char *p = shared[(long)arg];

    for (int step = 0; step < PAGES; step++) {
        pthread_barrier_wait(&barrier);
        if (leave)
            break;
        touch(p, step);
        pthread_barrier_wait(&barrier);
    }
    return NULL;
}

/* Each of THREADS touches one page a step; the main thread, which touches none, reads. */
static void others(enum probe probe)
{
    pthread_t threads[THREADS];
    long low = 0, high = 0, first;

    leave = 0;
    pthread_barrier_init(&barrier, NULL, THREADS + 1);
    for (long i = 0; i < THREADS; i++) {
        shared[i] = fresh(PAGES);
        if (pthread_create(&threads[i], NULL, toucher, (void *)i) != 0)
            exit(2);
    }
    usleep(100000); /* their stacks' pages are touched: they stand at the barrier */
    first = read_probe(probe);
    for (int step = 0; step < PAGES; step++) {
        pthread_barrier_wait(&barrier);
        pthread_barrier_wait(&barrier);
        long off = read_probe(probe) - first - (step + 1) * THREADS;

        low = off < low ? off : low;
        high = off > high ? off : high;
    }
    tell("other threads", probe, low, high);
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        munmap((void *)shared[i], PAGES * PAGE);
    }
}

int main(void)
{
    statm_fd = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
    rollup_fd = open("/proc/self/smaps_rollup", O_RDONLY | O_CLOEXEC);
    *(volatile char *)scratch = 1;
    for (enum probe probe = 0; probe < PROBES; probe++) /* touches what reading touches */
        read_probe(probe);
    for (enum probe probe = 0; probe < PROBES; probe++)
        own("a lone thread", probe);
    others(STATM);
    others(SYNCED);
    others(ROLLUP);
    return 0;
}
