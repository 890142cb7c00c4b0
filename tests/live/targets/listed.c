/* To be preloaded: a malloc that, like jemalloc, keeps a word of each thread's TLS on a
 * list of all threads, counts on a key's destructor to take it off, and walks
 * the list. A thread that went with its TLS, but not through pthread_exit, crashes it. */
#include <pthread.h>
#include <stddef.h>

extern void *__libc_malloc(size_t size);
extern void *__libc_calloc(size_t n, size_t size);
extern void *__libc_realloc(void *p, size_t size);

struct node {
    struct node *next;
    volatile unsigned long calls;
};

static __thread struct node here __attribute__((tls_model("initial-exec")));
static struct node *all;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_key_t key;
static int ready;

static void unlink_node(void *p)
{
    struct node *n = p, **at = &all;

    pthread_mutex_lock(&lock);
    while (*at && *at != n)
        at = &(*at)->next;
    if (*at)
        *at = n->next;
    n->calls = 0;
    pthread_mutex_unlock(&lock);
}

static void __attribute__((constructor)) begin(void)
{
    ready = pthread_key_create(&key, unlink_node) == 0;
}

static void note(void)
{
    pthread_mutex_lock(&lock);
    if (ready && !here.calls) {
        here.calls = 1;
        here.next = all;
        all = &here;
        pthread_setspecific(key, &here);
    }
    for (struct node *n = all; n; n = n->next)
        n->calls++;
    pthread_mutex_unlock(&lock);
}

void *malloc(size_t size)
{
    note();
    return __libc_malloc(size);
}

void *calloc(size_t n, size_t size)
{
    note();
    return __libc_calloc(n, size);
}

void *realloc(void *p, size_t size)
{
    note();
    return __libc_realloc(p, size);
}
