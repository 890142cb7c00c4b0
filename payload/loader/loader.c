/* The loader: the first and the last code of ours in a target. Position
 * independent, no libc of its own, no data; everything it knows is in the boot
 * block, and its own notes stand at the end of the boot pages.
 *
 *   raw thread   made by the launcher's clone(2); unknown to libc. Descriptors,
 *                rendezvous, the launcher's byte, pthread_create; then it ends.
 *   worker       a true pthread: dlopen, the agent, dlclose; then it ends.
 *   reaper       made by the worker's clone(2): waits until the worker is gone,
 *                unmaps the region, ends.
 *
 * All signals stay blocked in all three, but for the two that libc uses itself:
 * setuid(2) in the target waits for every pthread to take SIGSETXID. */
#include <stddef.h>
#include <stdint.h>

#include "boot.h"
#include "control.h"
#include "limits.h"
#include "loader/offsets.h"

_Static_assert(LOADER_BOOT_OFF == MP_BOOT_OFF, "offsets.h");
_Static_assert(LOADER_REGION_SIZE == MP_REGION_SIZE, "offsets.h");
_Static_assert(LOADER_BOOT_EXIT_GADGET == offsetof(struct mp_boot, exit_gadget), "offsets.h");

enum { /* arch/x86/entry/syscalls/syscall_64.tbl */
    NR_read = 0, NR_close = 3, NR_fstat = 5, NR_poll = 7, NR_rt_sigprocmask = 14, NR_getpid = 39,
    NR_shutdown = 48, NR_socketpair = 53, NR_fcntl = 72, NR_prctl = 157, NR_gettid = 186,
    NR_futex = 202, NR_clock_gettime = 228, NR_tgkill = 234, NR_pipe2 = 293, NR_memfd_create = 319
};

enum { EINTR_ = 4, EAGAIN_ = 11, EINVAL_ = 22, ENOTSUP_ = 95, ESRCH_ = 3 };

#define CLONE_RAW 0x50f00u /* VM | FS | FILES | SIGHAND | THREAD | SYSVSEM, as of linux/sched.h */
_Static_assert(CLONE_RAW == (0x100 | 0x200 | 0x400 | 0x800 | 0x10000 | 0x40000), "clone flags");

#define FD_MIN 512           /* ours lie above what a program counts on being free */
#define STACK_REFUSED 1024u   /* bytes; struct pthread alone has more */
#define REAP_WAIT_MS 30000u  /* for the worker to end after it has returned */
#define LIBC_SIGNALS (3ull << 31) /* 32 and 33: SIGCANCEL and SIGSETXID */

/* The loader's own notes: the last bytes of the boot pages. */
struct notes {
    volatile uint32_t inherit; /* futex: 0 until the raw thread has left its malloc state behind */
    uint32_t pad;
    uint64_t *worker_tid_word; /* glibc's tid of the worker, which the kernel zeroes at its end */
    uint64_t attr[8];          /* pthread_attr_t, 56 bytes */
};
_Static_assert(sizeof(struct mp_boot) + sizeof(struct notes) <= MP_BOOT_SIZE, "boot pages are full");

/* start.S */
__attribute__((visibility("hidden"), noreturn)) void loader_leave(uint64_t region, uint64_t len, uint64_t gadget);
__attribute__((visibility("hidden"))) long loader_clone(uint64_t flags, void *stack, void (*fn)(void *), void *arg);
__attribute__((noreturn, used)) void loader_raw(struct mp_boot *boot);

static long sys6(long nr, long a, long b, long c, long d, long e, long f)
{
    long r;
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;
    __asm__ volatile("syscall"
                     : "=a"(r)
                     : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return r;
}

static long sys4(long nr, long a, long b, long c, long d)
{
    return sys6(nr, a, b, c, d, 0, 0);
}

static struct notes *notes_of(struct mp_boot *b)
{
    return (struct notes *)((unsigned char *)b + MP_BOOT_SIZE - sizeof(struct notes));
}

static uint64_t now_ms(void)
{
    int64_t ts[2];
    sys4(NR_clock_gettime, 1 /* CLOCK_MONOTONIC */, (long)ts, 0, 0);
    return (uint64_t)ts[0] * 1000 + (uint64_t)ts[1] / 1000000;
}

static void set_phase(struct mp_boot *b, enum mp_phase phase)
{
    __atomic_store_n(&b->phase, (uint32_t)phase, __ATOMIC_RELEASE);
}

/* The first failure is the one that is told. */
static void fail(struct mp_boot *b, long err, const char *text)
{
    size_t i = 0;
    if (b->phase == MP_PHASE_FAILED)
        return;
    b->error = err < 0 ? (int32_t)-err : (int32_t)err;
    for (; text && text[i] && i + 1 < sizeof b->error_text; i++)
        b->error_text[i] = text[i];
    b->error_text[i] = 0;
    set_phase(b, MP_PHASE_FAILED);
}

static void close_fd(volatile int32_t *fd)
{
    int32_t n = *fd;
    *fd = -1;
    if (n >= 0)
        sys4(NR_close, n, 0, 0, 0);
}

/* --- descriptors --------------------------------------------------------------- */

/* Notes a descriptor, for a forked child to be rid of it. Each is opened once. */
static int32_t hold(struct mp_boot *b, enum mp_held_slot slot, int32_t fd)
{
    uint64_t st[18]; /* struct stat: st_dev, st_ino ... */
    struct mp_held *h = &b->held[slot];
    if (sys4(NR_fstat, fd, (long)st, 0, 0) < 0)
        return fd;
    h->fd = fd;
    h->dev = st[0];
    __atomic_store_n(&h->ino, st[1], __ATOMIC_RELEASE);
    return fd;
}

/* Whether what was noted is still ours: the target may have closed it, and have got
 * the same number for a file of its own (agent/held.c). */
static int ours(struct mp_boot *b, enum mp_held_slot slot)
{
    uint64_t st[18];
    struct mp_held *h = &b->held[slot];
    return !h->ino || (sys4(NR_fstat, h->fd, (long)st, 0, 0) == 0 && st[0] == h->dev && st[1] == h->ino);
}

/* Closes the descriptor in *fd, -1: none, and marks it. */
static void drop(struct mp_boot *b, enum mp_held_slot slot, volatile int32_t *fd)
{
    if (ours(b, slot))
        close_fd(fd);
    *fd = -1;
    b->held[slot].closed = 1;
}

static void drop_all(struct mp_boot *b)
{
    drop(b, MP_HELD_LAUNCHER, &b->launcher_fd);
    drop(b, MP_HELD_IN, &b->agent_fd);
    drop(b, MP_HELD_OUT, &b->agent_out);
    drop(b, MP_HELD_MEMFD, &b->memfd);
}

/* Moves a descriptor up. The number varies with the thread's id, so that the path
 * under which the agent is loaded differs from that of an earlier agent which had
 * to stay: ld.so would take the one for the other. */
static int32_t fd_up(struct mp_boot *b, int32_t fd)
{
    enum { F_DUPFD_CLOEXEC = 1030 };
    long up = sys4(NR_fcntl, fd, F_DUPFD_CLOEXEC, FD_MIN + (b->raw_tid & 0xff), 0);
    if (up < 0) /* RLIMIT_NOFILE may be lower: the lowest free ones then */
        return fd;
    sys4(NR_close, fd, 0, 0, 0);
    return (int32_t)up;
}

static void make_socketpair(struct mp_boot *b)
{
    enum { AF_UNIX = 1, STREAM_CLOEXEC_NONBLOCK = 1 | 02000000 | 04000 };
    int32_t sv[2];
    long r = sys4(NR_socketpair, AF_UNIX, STREAM_CLOEXEC_NONBLOCK, 0, (long)sv);
    if (r < 0) {
        fail(b, r, "socketpair");
        return;
    }
    hold(b, MP_HELD_LAUNCHER, sv[0]); /* before they move too: a fork may come in between */
    hold(b, MP_HELD_IN, sv[1]);
    b->launcher_fd = hold(b, MP_HELD_LAUNCHER, fd_up(b, sv[0]));
    b->agent_fd = hold(b, MP_HELD_IN, fd_up(b, sv[1]));
}

/* One pipe, of which one end is kept. The launcher opens the other one anew, from
 * ours: a pipe's number in /proc/TID/fd leads to the pipe, not to the end. So no
 * end of the launcher's is ever here, for a forked child to hold open. */
static int32_t make_pipe(struct mp_boot *b, int keep)
{
    enum { CLOEXEC_NONBLOCK = 02000000 | 04000 };
    int32_t ends[2];
    long r = b->phase == MP_PHASE_FAILED ? -1 : sys4(NR_pipe2, (long)ends, CLOEXEC_NONBLOCK, 0, 0);
    if (r < 0) {
        fail(b, r, "pipe2");
        return -1;
    }
    sys4(NR_close, ends[!keep], 0, 0, 0);
    return hold(b, keep ? MP_HELD_OUT : MP_HELD_IN, fd_up(b, ends[keep]));
}

static void make_channel(struct mp_boot *b)
{
    if (b->channel == MP_CHANNEL_SOCKET) {
        make_socketpair(b);
        return;
    }
    b->agent_fd = make_pipe(b, 0);
    b->agent_out = make_pipe(b, 1);
}

static void make_memfd(struct mp_boot *b)
{
    enum { MFD_CLOEXEC = 1, MFD_EXEC = 0x10 };
    char name[] = MP_AGENT_NAME;
    long r = sys4(NR_memfd_create, (long)name, MFD_CLOEXEC | MFD_EXEC, 0, 0);
    if (r == -EINVAL_) /* before 6.3 */
        r = sys4(NR_memfd_create, (long)name, MFD_CLOEXEC, 0, 0);
    if (r < 0) {
        fail(b, r, "memfd_create");
        return;
    }
    hold(b, MP_HELD_MEMFD, (int32_t)r);
    b->memfd = hold(b, MP_HELD_MEMFD, fd_up(b, (int32_t)r));
}

/* PR_SET_VMA_ANON_NAME, 5.17: the region says in maps whose it is. */
static void name_region(struct mp_boot *b)
{
    char name[] = MP_ANON_NAME;
    sys6(NR_prctl, 0x53564d41 /* PR_SET_VMA */, 0, (long)b->region_base, (long)b->region_len, (long)name, 0);
}

/* --- waiting ------------------------------------------------------------------- */

struct pollfd_ {
    int32_t fd;
    int16_t events, revents;
};

/* Waits for one of the events or a hang-up. Returns revents, 0 after timeout_ms. */
static int poll_for(int32_t fd, int events, uint64_t timeout_ms)
{
    uint64_t end = now_ms() + timeout_ms;
    for (;;) {
        struct pollfd_ p = {fd, (int16_t)events, 0};
        uint64_t now = now_ms();
        long r = sys4(NR_poll, (long)&p, 1, now < end ? (long)(end - now) : 0, 0);
        if (r > 0)
            return p.revents;
        if (r != -EINTR_ && now >= end)
            return 0;
    }
}

/* The launcher's byte: 1 when it says go. */
static int wait_go(struct mp_boot *b)
{
    enum { POLLIN = 1 };
    char byte = 0;
    if (!poll_for(b->agent_fd, POLLIN, MP_GO_WAIT_MS) || !ours(b, MP_HELD_IN))
        return 0;
    return sys4(NR_read, b->agent_fd, (long)&byte, 1, 0) == 1 && byte == 'G';
}

/* Keeps the boot block readable until the launcher, which sees an end of file,
 * has read it and closed its end. */
static void wait_read(struct mp_boot *b)
{
    enum { SHUT_WR = 1, POLLRDHUP = 0x2000, POLLHUP = 0x10, POLLERR = 8 };
    if (b->agent_fd < 0 || !ours(b, MP_HELD_IN))
        return;
    if (b->channel == MP_CHANNEL_SOCKET)
        sys4(NR_shutdown, b->agent_fd, SHUT_WR, 0, 0);
    drop(b, MP_HELD_OUT, &b->agent_out);
    poll_for(b->agent_fd, POLLRDHUP | POLLHUP | POLLERR, MP_GO_WAIT_MS);
}

/* Whether a thread of this process still exists. */
static int tid_lives(int32_t tid)
{
    return tid > 0 && sys4(NR_tgkill, sys4(NR_getpid, 0, 0, 0, 0), tid, 0, 0) != -ESRCH_;
}

static void futex_wait(const volatile void *word, uint32_t value, unsigned ms)
{
    int64_t ts[2] = {ms / 1000, (int64_t)(ms % 1000) * 1000000};
    sys4(NR_futex, (long)word, 0 /* FUTEX_WAIT, shared: the kernel's own wake at a thread's end is */, value,
         (long)ts);
}

static void wait_tid_gone(int32_t tid, uint64_t timeout_ms)
{
    static const uint32_t zero;
    uint64_t end = now_ms() + timeout_ms;
    while (tid_lives(tid) && now_ms() < end)
        futex_wait(&zero, 0, 1);
}

static void block_signals(uint64_t but)
{
    uint64_t mask = ~but;
    sys4(NR_rt_sigprocmask, 2 /* SIG_SETMASK */, (long)&mask, 0, 8);
}

/* --- malloc's per-thread state --------------------------------------------------- *
 * pthread_create allocates, so libc gave the raw thread a malloc arena and a cache,
 * and would keep them attached for ever: the raw thread never ends as a pthread.
 * So the worker takes them over before its own first allocation, and gives them
 * back when it ends. They are recognised, not known by offset: words of the raw
 * thread's static TLS that point into an arena of their own (heap_info at 64 MiB
 * alignment, whose first word is the arena that the other word points to;
 * malloc/arena.c), where the worker's TLS still holds 0. */

#define HEAP_SIZE (64ull << 20) /* HEAP_MAX_SIZE on x86-64 */

static int is_arena(uint64_t word)
{
    uint64_t heap = word & ~(HEAP_SIZE - 1), off = word & (HEAP_SIZE - 1);
    if (off < 0x18 || off > 0x100 || (off & 7) || heap == 0 || heap >> 47)
        return 0;
    /* It may not be mapped. The mask is read before it is seen that there is no such `how`
     * (kernel/signal.c, rt_sigprocmask), and filters that let our threads live allow the call. */
    if (sys4(NR_rt_sigprocmask, -1, (long)heap, 0, 8) != -EINVAL_)
        return 0;
    return *(uint64_t *)heap == word;
}

static uint64_t *raw_tls_begin(struct mp_boot *b)
{
    return (uint64_t *)(b->region_base + MP_RAW_TLS_OFF);
}

/* The raw thread's arena, or 0. */
static uint64_t raw_arena(struct mp_boot *b)
{
    for (uint64_t *w = raw_tls_begin(b); w < (uint64_t *)b->raw_tcb; w++)
        if (is_arena(*w))
            return *w;
    return 0;
}

static void inherit_malloc(struct mp_boot *b, uint64_t worker_tcb)
{
    uint64_t arena = raw_arena(b), heap = arena & ~(HEAP_SIZE - 1);
    if (!arena)
        return;
    for (uint64_t *w = raw_tls_begin(b); w < (uint64_t *)b->raw_tcb; w++) {
        uint64_t *ours = (uint64_t *)(worker_tcb - (b->raw_tcb - (uint64_t)w));
        if (*w >= heap && *w < heap + HEAP_SIZE && *ours == 0)
            *ours = *w;
    }
}

/* --- what other allocators keep of a thread ---------------------------------------- *
 * A malloc that was preloaded or linked in may keep its state of a thread in the thread's
 * TLS, on a list of all threads (jemalloc), and counts on the destructor of a pthread
 * key to take it off. The raw thread has allocated, its TLS goes with the region, and
 * it never ends as a pthread. So it does what libc does for a thread that ends: runs
 * the destructors of all keys that have a value in it. Which they are stands in a table
 * that libc keeps to itself; it is found by making a key and looking for its destructor. */

#define KEYS_MAX 1024u  /* PTHREAD_KEYS_MAX, bits/local_lim.h */
#define KEY_ROUNDS 4    /* PTHREAD_DESTRUCTOR_ITERATIONS, the same */

struct key { /* struct pthread_key_struct, sysdeps/nptl/internaltypes.h */
    uint64_t sequence;
    void (*destructor)(void *);
};

static void key_mark(void *value)
{
    (void)value;
}

static const struct key *search_keys(const struct mp_boot *b, const uint32_t k[2])
{
    for (uint64_t at = b->keys_lo; at + 8 <= b->keys_hi; at += 8) {
        const struct key *table = (const struct key *)(at - 8) - k[0];
        if (*(void (*volatile *)(void *))at == key_mark && (uint64_t)table >= b->keys_lo &&
            (uint64_t)(table + KEYS_MAX) <= b->keys_hi && table[k[1]].destructor == key_mark)
            return table;
    }
    return NULL;
}

/* The table of keys; NULL: not found, or no key is free. */
static const struct key *find_keys(const struct mp_boot *b)
{
    int (*create)(uint32_t *, void (*)(void *)) = (int (*)(uint32_t *, void (*)(void *)))b->fn_pthread_key_create;
    int (*delete)(uint32_t) = (int (*)(uint32_t))b->fn_pthread_key_delete;
    const struct key *table = NULL;
    uint32_t k[2];
    if (create(&k[0], key_mark) != 0)
        return NULL;
    if (create(&k[1], key_mark) == 0) {
        table = search_keys(b, k);
        delete (k[1]);
    }
    delete (k[0]);
    return table;
}

/* 0; -1: something keeps a pointer into the raw thread's TLS, or may do so. */
static int run_destructors(const struct mp_boot *b)
{
    void *(*get)(uint32_t) = (void *(*)(uint32_t))b->fn_pthread_getspecific;
    int (*set)(uint32_t, const void *) = (int (*)(uint32_t, const void *))b->fn_pthread_setspecific;
    const struct key *table = NULL;
    int more = 1;
    if (b->fn_call_tls_dtors)
        ((void (*)(void))b->fn_call_tls_dtors)();
    for (int round = 0; more && round < KEY_ROUNDS; round++) {
        more = 0;
        for (uint32_t k = 0; k < KEYS_MAX; k++) {
            void *value = get(k);
            if (!value)
                continue;
            if (!table && !(table = find_keys(b)))
                return -1;
            more = 1;
            set(k, NULL);
            if (table[k].destructor)
                table[k].destructor(value);
        }
    }
    return 0;
}

/* --- the reaper ------------------------------------------------------------------ */

static void reaper(void *arg)
{
    struct mp_boot *b = arg;
    volatile uint32_t *word = (volatile uint32_t *)notes_of(b)->worker_tid_word;
    uint64_t end = now_ms() + REAP_WAIT_MS;
    uint32_t tid;
    block_signals(0);
    while ((tid = *word) != 0 && now_ms() < end)
        futex_wait(word, tid, 50);
    wait_tid_gone(b->worker_tid, 1000);
    if (*word != 0 || tid_lives(b->worker_tid)) {
        set_phase(b, MP_PHASE_DORMANT); /* its stack is in use: the region stays */
        loader_leave(0, 0, 0);
    }
    loader_leave(b->region_base, MP_REGION_SIZE, b->exit_gadget);
}

/* Waits for the raw thread's end, and strikes out its id: a thread of the target may get it. */
static void await_raw(struct mp_boot *b)
{
    wait_tid_gone(b->raw_tid, 1000);
    if (!tid_lives(b->raw_tid))
        b->raw_tid = 0;
}

/* Leaves the region to a thread that needs no libc, once the worker has gone. */
static void reap(struct mp_boot *b)
{
    unsigned char *stack = (unsigned char *)b + (MP_RAW_TLS_OFF - MP_BOOT_OFF);
    await_raw(b);
    if (!b->exit_gadget || b->raw_tid) {
        set_phase(b, MP_PHASE_DORMANT);
        return;
    }
    if (loader_clone(CLONE_RAW, stack, reaper, b) < 0)
        set_phase(b, MP_PHASE_DORMANT);
}

/* --- the worker -------------------------------------------------------------------- */

/* "<dir>" (".../fd/"), the region's page number in "./" for a 1 and "/" for a 0, "<n>".
 * libc knows a library by the name it was opened by before it looks at the file: while
 * another agent of ours is mapped, or the library of one that had to stay, the same
 * number of a descriptor would give its image, data and all, for ours. */
static void fd_path(char *to, const char *dir, int32_t fd, uint64_t region)
{
    char digits[12];
    int n = 0;
    while (*dir)
        *to++ = *dir++;
    for (region /= MP_PAGE; region; region /= 2) {
        if (region & 1)
            *to++ = '.';
        *to++ = '/';
    }
    do
        digits[n++] = (char)('0' + fd % 10);
    while ((fd /= 10) > 0);
    while (n > 0)
        *to++ = digits[--n];
    *to = 0;
}

static void *load(struct mp_boot *b)
{
    void *(*dl_open)(const char *, int) = (void *(*)(const char *, int))b->fn_dlopen;
    char *(*dl_error)(void) = (char *(*)(void))b->fn_dlerror;
    char path[160], self[] = "/proc/self/fd/", thread[] = "/proc/thread-self/fd/"; /* 2 * 52 bits, 10 digits */
    if (!ours(b, MP_HELD_MEMFD)) {
        fail(b, 0, "the target closed the session's descriptors");
        return NULL;
    }
    fd_path(path, self, b->memfd, b->region_base);
    void *handle = dl_open(path, (int)b->dlopen_flags);
    if (!handle) { /* the leader is dead, say: /proc/self has no descriptors then */
        fd_path(path, thread, b->memfd, b->region_base);
        handle = dl_open(path, (int)b->dlopen_flags);
    }
    if (!handle)
        fail(b, 0, b->fn_dlerror ? dl_error() : "dlopen");
    b->agent_handle = (uint64_t)handle;
    drop(b, MP_HELD_MEMFD, &b->memfd);
    return handle;
}

/* Runs the agent. 0: nothing of it is reachable any more. */
static int run_agent(struct mp_boot *b, void *handle)
{
    mp_agent_main_fn agent_main;
    b->agent_base = *(uint64_t *)handle; /* struct link_map, l_addr */
    set_phase(b, MP_PHASE_LOADED);
    agent_main = (mp_agent_main_fn)(b->agent_base + b->agent_entry_off);
    set_phase(b, MP_PHASE_AGENT);
    return agent_main(b);
}

static void *worker(void *arg)
{
    struct mp_boot *b = arg;
    uint64_t tcb;
    int stays = 0;
    __asm__("movq %%fs:0, %0" : "=r"(tcb));
    while (__atomic_load_n(&notes_of(b)->inherit, __ATOMIC_ACQUIRE) == 0)
        futex_wait(&notes_of(b)->inherit, 0, 100);
    inherit_malloc(b, tcb);
    b->worker_tid = (int32_t)sys4(NR_gettid, 0, 0, 0, 0);
    notes_of(b)->worker_tid_word = (uint64_t *)(tcb + b->tid_offset);
    set_phase(b, MP_PHASE_WORKER);

    void *handle = load(b);
    await_raw(b); /* now: it is about to end, or has */
    if (handle) {
        int (*dl_close)(void *) = (int (*)(void *))b->fn_dlclose;
        stays = run_agent(b, handle) != 0;
        set_phase(b, stays ? MP_PHASE_DORMANT : MP_PHASE_LEAVING);
        if (!stays) {
            b->agent_handle = 0;
            dl_close(handle);
        }
    } else {
        wait_read(b);
    }
    drop_all(b);
    if (!stays)
        reap(b);
    return NULL;
}

/* Begins the worker, on a stack that is said to have so many bytes. */
static int create_worker(struct mp_boot *b, uint64_t stack_size)
{
    int (*attr_init)(void *) = (int (*)(void *))b->fn_pthread_attr_init;
    int (*attr_setstack)(void *, void *, size_t) = (int (*)(void *, void *, size_t))b->fn_pthread_attr_setstack;
    int (*attr_setdetach)(void *, int) = (int (*)(void *, int))b->fn_pthread_attr_setdetachstate;
    int (*attr_destroy)(void *) = (int (*)(void *))b->fn_pthread_attr_destroy;
    int (*create)(uint64_t *, const void *, void *(*)(void *), void *) =
        (int (*)(uint64_t *, const void *, void *(*)(void *), void *))b->fn_pthread_create;
    uint64_t *attr = notes_of(b)->attr, thread;
    size_t i = 0, words = sizeof notes_of(b)->attr / sizeof *attr;
    int r = attr_init(attr);
    if (r == 0)
        r = attr_setstack(attr, (void *)(b->region_base + MP_WORKER_STACK_OFF), MP_WORKER_STACK_SIZE);
    if (r == 0)
        r = attr_setdetach(attr, 1 /* PTHREAD_CREATE_DETACHED */);
    while (i < words && attr[i] != MP_WORKER_STACK_SIZE)
        i++;
    if (r == 0 && i < words) /* past attr_setstack's own opinion of what is too small */
        attr[i] = stack_size;
    if (r == 0)
        r = i < words || stack_size == MP_WORKER_STACK_SIZE ? create(&thread, attr, worker, b) : ENOTSUP_;
    if (b->fn_pthread_attr_destroy)
        attr_destroy(attr);
    return r;
}

/* From 2.36 on malloc takes its locks once pthread_create has been called, which allocates
 * later in the same call. In between, the target's only thread may be in the midst of a malloc
 * without locks. So it is called for the note alone first, with a stack that it refuses before it
 * allocates (nptl/pthread_create.c, nptl/allocatestack.c). Where there is one arena for all, the
 * launcher holds that thread outside of malloc meanwhile; else it waits, before it says go, until
 * that one has left malloc. */
static void note_threads(struct mp_boot *b)
{
    int r = create_worker(b, STACK_REFUSED);
    if (r != EINVAL_)
        fail(b, r, "pthread_create, with a stack that is too small,");
    sys4(NR_getpid, (long)MP_NOTED_ARG, 0, 0, 0);
}

/* --- the raw thread ---------------------------------------------------------------- */

static __attribute__((noreturn)) void raw_leave(struct mp_boot *b)
{
    drop_all(b);
    if (!b->exit_gadget)
        set_phase(b, MP_PHASE_DORMANT);
    loader_leave(b->region_base, MP_REGION_SIZE, b->exit_gadget);
}

void loader_raw(struct mp_boot *b)
{
    int32_t tid = (int32_t)sys4(NR_gettid, 0, 0, 0, 0);
    if (b->magic != MP_BOOT_MAGIC || b->abi != MP_ABI || b->size != sizeof *b)
        loader_leave((uint64_t)b - MP_BOOT_OFF, MP_REGION_SIZE, b->exit_gadget);
    b->raw_tid = tid;
    *(volatile int32_t *)(b->raw_tcb + b->tid_offset) = tid; /* locks of libc name their owner by it */
    set_phase(b, MP_PHASE_RAW);
    if (b->note_threads)
        note_threads(b);
    b->owner_pid = (int32_t)sys4(NR_getpid, 0, 0, 0, 0);
    name_region(b);
    make_channel(b);
    if (b->phase != MP_PHASE_FAILED)
        make_memfd(b);
    if (b->phase != MP_PHASE_FAILED)
        set_phase(b, MP_PHASE_FDS);
    sys4(NR_getpid, (long)MP_RENDEZVOUS_ARG, 0, 0, 0);

    /* The launcher holds its end by now, or is dead: then this is the last one (of a
     * pipe there is none), and the wait below ends at once. */
    drop(b, MP_HELD_LAUNCHER, &b->launcher_fd);
    if (b->phase == MP_PHASE_FAILED || !wait_go(b))
        raw_leave(b);
    block_signals(LIBC_SIGNALS);
    int r = create_worker(b, MP_WORKER_STACK_SIZE);
    if (run_destructors(b) != 0)
        b->exit_gadget = 0; /* the region stays */
    if (r != 0) {
        fail(b, r, "pthread_create");
        wait_read(b);
        raw_leave(b);
    }
    __atomic_store_n(&notes_of(b)->inherit, 1, __ATOMIC_RELEASE);
    sys4(NR_futex, (long)&notes_of(b)->inherit, 1 /* FUTEX_WAKE */, 1, 0);
    loader_leave(0, 0, 0);
}
