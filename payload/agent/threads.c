/* Threads of the target and their rings.
 *
 *            hook, first event            agent: tid gone        agent: ring sent
 *   EMPTY ---------------------> LIVE -------------------> EXITED -------------> FREE
 *                                  ^                                               |
 *                                  +------------ hook, for another thread ---------+
 *
 * Hooks find a thread by the tid in its TCB (one load), in a hash that only
 * hooks change, under the GIL. A kernel tid that comes back is told by the TCB's
 * address and by the state; ids on the wire never come back. */
#include "agent/python.h"

#define BUCKETS 1024u

#define RLIMIT_STACK 3
#define MAIN_STACK_MAX (64ull << 20)  /* what is believed of a larger limit */
#define MAIN_STACK_ABOVE (256u << 10) /* arguments, environment, main: not more, mostly */

static struct thread *buckets[BUCKETS];

/* Names of the threads that were there at the hook, for when they are first seen.
 * Written by the agent under the GIL, read by hooks. */
#define KNOWN_MAX 256u
static struct {
    const void *tcb;
    int32_t tid;
    uint16_t len;
    char name[MP_THREAD_NAME_MAX + 1];
} known[KNOWN_MAX];
static uint32_t nknown;

/* glibc's struct pthread keeps a thread's stack in two words, stackblock and
 * stackblock_size, with no accessor that needs no lock. Where they are is seen on our
 * own thread: the only pair of page-aligned words with our stack pointer in between. */
#define PTHREAD_WORDS 320 /* struct pthread is 2304 bytes in glibc 2.31 - 2.41 */

static uint32_t find_stack_words(void)
{
    const uintptr_t *tcb = tcb_now(), sp = (uintptr_t)__builtin_frame_address(0);
    uintptr_t w[PTHREAD_WORDS];
    long n = sys_read_self(g.pid, w, tcb, sizeof(w));

    for (long i = 8; i + 1 < n / 8; i++)
        if (!(w[i] & 4095) && !(w[i + 1] & 4095) && w[i + 1] < 1ull << 40 && sp - w[i] < w[i + 1])
            return (uint32_t)i * 8;
    return 0;
}

bool thread_stack(uintptr_t *ret_lo, size_t *ret_size)
{
    uintptr_t sp = (uintptr_t)__builtin_frame_address(0), lo, size;
    uint64_t rlim[2];

    if (!g.stack_offset)
        return false;
    lo = FIELD(const uintptr_t, tcb_now(), g.stack_offset);
    size = FIELD(const uintptr_t, tcb_now(), g.stack_offset + 8);
    if (tid_now() == g.pid) { /* the kernel's: it grows down to the limit, from not far above */
        if (sys4(__NR_prlimit64, 0, RLIMIT_STACK, 0, (long)rlim) < 0)
            return false;
        size = rlim[0] < MAIN_STACK_MAX ? rlim[0] : MAIN_STACK_MAX;
        lo = sp - size + MAIN_STACK_ABOVE;
    }
    *ret_lo = lo;
    *ret_size = size;
    return sp - lo < size;
}

int threads_init(void)
{
    g.stack_offset = find_stack_words();
    nknown = 0;
    memset(buckets, 0, sizeof(buckets));
    return 0;
}

static void unlink_thread(struct thread *th)
{
    struct thread **at = &buckets[(uint32_t)th->tid % BUCKETS];

    while (*at && *at != th)
        at = &(*at)->hnext;
    if (*at)
        *at = th->hnext;
}

static struct thread *take_free(void)
{
    if (!__atomic_load_n(&g.free_slots, __ATOMIC_RELAXED))
        return NULL;
    for (uint32_t i = 0; i < g.nthread; i++)
        if (load_acquire(&g.thread[i]->state) == THREAD_FREE) {
            __atomic_fetch_sub(&g.free_slots, 1, __ATOMIC_RELAXED);
            unlink_thread(g.thread[i]);
            return g.thread[i];
        }
    return NULL;
}

static struct thread *take_new(void)
{
    struct thread *th;

    if (g.nthread >= MP_THREADS_MAX || !(th = mem_map(sizeof(*th), false)))
        return NULL;
    th->touched[0] = 1; /* mem_map wrote to the first page, and counted it */
    g.thread[g.nthread] = th;
    store_release(&g.nthread, g.nthread + 1);
    return th;
}

static void thread_reset(struct thread *th, int32_t tid)
{
    th->tid = tid;
    th->tcb = tcb_now();
    th->skip = g.opt.thread && g.opt.thread != tid;
    th->fresh = true;
    th->quiet = th->skipping = th->resting = false;
    th->ntracked = th->tracked_max = 0;
    th->stack_floor = 0;
    th->pre_root = th->in_root = th->armed = th->lines_busy = false;
    th->line_code = NULL;
    th->top_frame = NULL;
    th->top_sp = 0;
    th->top_abs = DEPTH_NONE;
    th->force = g.force;
    th->root_frame = NULL;
    th->nshadow = 0;
    th->weight_log2 = 0;
    th->rss_pages = 0;
    th->rss_time = th->rss_faults = th->edge_time = 0;
    th->self_faults = th->probe_ns = th->line_faults = 0;
    th->renamed = false;
    th->name_len = 0;
    /* The thunk's depth under --root is the distance to it; monitoring's needs one first. */
    thread_set_base(th, g.roots && g.hook == MP_HOOK_MONITORING ? DEPTH_NONE : 0);
}

static void name_known(struct thread *th)
{
    for (uint32_t i = 0; i < nknown; i++)
        if (known[i].tcb == th->tcb && known[i].tid == th->tid) {
            memcpy(th->name, known[i].name, known[i].len);
            th->name_len = known[i].len;
            th->renamed = true;
            return;
        }
}

struct thread *thread_find(int32_t tid)
{
    const void *tcb = tcb_now();
    struct thread *th;

    if (tid == g.agent_tid)
        return NULL;
    for (th = buckets[(uint32_t)tid % BUCKETS]; th; th = th->hnext)
        if (th->tid == tid && th->tcb == tcb && load_acquire(&th->state) == THREAD_LIVE)
            return g.cur = th;
    th = take_free();
    if (!th)
        th = take_new();
    if (!th) {
        g.lost_threads++;
        return NULL;
    }
    thread_reset(th, tid);
    th->id = ++g.next_thread_id;
    name_known(th);
    th->hnext = buckets[(uint32_t)tid % BUCKETS];
    buckets[(uint32_t)tid % BUCKETS] = th;
    mp_control_block.threads = th->id;
    store_release(&th->state, THREAD_LIVE);
    return g.cur = th;
}

void threads_reap(void)
{
    uint32_t n = load_acquire(&g.nthread);

    for (uint32_t i = 0; i < n; i++) {
        struct thread *th = g.thread[i];
        uint32_t state = load_acquire(&th->state);

        if (state == THREAD_LIVE && sys_tgkill(g.pid, th->tid, 0) == -SYS_ESRCH)
            store_release(&th->state, THREAD_EXITED);
        else if (state == THREAD_EXITED && th->tail == load_acquire(&th->head) && th->announced_id == th->id &&
                 th->lost == th->lost_sent) {
            store_release(&th->state, THREAD_FREE);
            __atomic_fetch_add(&g.free_slots, 1, __ATOMIC_RELAXED);
        }
    }
}

static struct thread *by_ident(unsigned long ident)
{
    for (uint32_t i = 0; i < g.nthread; i++)
        if (g.thread[i]->state == THREAD_LIVE && (unsigned long)(uintptr_t)g.thread[i]->tcb == ident)
            return g.thread[i];
    return NULL;
}

/* Thread._name of one threading.Thread, read from its __dict__ so that no
 * property or __getattr__ of a subclass runs. Returns its length, 0 if none. */
static size_t read_name(PyObj *py, char *to)
{
    PyObj *dict = py_getattr(py, "__dict__");
    PyObj *name = dict && py_type(dict) == PY_DICT_TYPE ? py_dict_get(dict, "_name") : NULL;
    size_t n = 0;
    bool cut;

    if (name && py_type(name) == PY_STR_TYPE)
        n = py_str_copy(name, to, MP_THREAD_NAME_MAX, false, &cut);
    py_error_clear();
    if (dict)
        py_decref(dict);
    return n;
}

/* Keeps the name of a thread that no hook has seen yet; its tid stands in its TCB. */
static void keep_name(const void *tcb, PyObj *py)
{
    if (nknown == KNOWN_MAX ||
        sys_read_self(g.pid, &known[nknown].tid, (const char *)tcb + g.tid_offset, 4) != 4)
        return;
    known[nknown].tcb = tcb;
    known[nknown].len = (uint16_t)read_name(py, known[nknown].name);
    nknown += known[nknown].len > 0;
}

static void name_thread(struct thread *th, PyObj *py)
{
    size_t n = read_name(py, th->name);

    if (n) {
        th->name_len = (uint16_t)n;
        th->renamed = true; /* drain tells it, as the better name */
    }
}

/* threading._active maps a thread's ident, which on glibc is its pthread_t, the
 * address of its TCB, to its Thread object. */
void threads_names(void)
{
    PyObj *module = py_module("threading");
    PyObj *active = module ? py_getattr(module, "_active") : NULL;
    PyObj *key, *value;
    int64_t pos = 0;

    if (active && py_type(active) == PY_DICT_TYPE)
        while (py_dict_next(active, &pos, &key, &value)) {
            unsigned long ident = PY(PyLong_AsUnsignedLong, unsigned long (*)(PyObj *))(key);
            struct thread *th = by_ident(ident);

            py_incref(value);
            if (!th && !g.records)
                keep_name((const void *)ident, value);
            else if (th && !th->renamed)
                name_thread(th, value);
            py_decref(value);
        }
    py_error_clear();
    if (active)
        py_decref(active);
}
