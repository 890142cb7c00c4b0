/* Preloaded: a thread that waits on a condition with more than a millisecond to go is woken
 * after half of one, for no reason (POSIX allows it). CPython's waiter for the GIL then never
 * sees its switch interval pass, and never asks for the GIL; one of 100 us does pass. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdlib.h>
#include <time.h>

#define LONG_NS 1000000
#define WOKEN_NS 500000
#define SECOND_NS 1000000000L

typedef int timedwait_fn(pthread_cond_t *, pthread_mutex_t *, const struct timespec *);

/* Of which clock a deadline is, the condition knows; the one that it is near to will do. */
static long left_ns(const struct timespec *end)
{
    const clockid_t clocks[] = {CLOCK_MONOTONIC, CLOCK_REALTIME};
    struct timespec now;

    for (int i = 0; i < 2; i++) {
        clock_gettime(clocks[i], &now);
        if (labs(end->tv_sec - now.tv_sec) < 1000)
            return (end->tv_sec - now.tv_sec) * SECOND_NS + end->tv_nsec - now.tv_nsec;
    }
    return 0;
}

int pthread_cond_timedwait(pthread_cond_t *cond, pthread_mutex_t *mutex, const struct timespec *end)
{
    static timedwait_fn *real;
    const struct timespec nap = {0, WOKEN_NS};

    if (!real)
        real = (timedwait_fn *)dlvsym(RTLD_NEXT, "pthread_cond_timedwait", "GLIBC_2.3.2");
    if (left_ns(end) <= LONG_NS)
        return real(cond, mutex, end);
    pthread_mutex_unlock(mutex);
    nanosleep(&nap, NULL);
    pthread_mutex_lock(mutex);
    return 0;
}
