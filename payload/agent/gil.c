/* The GIL, and a thread state for the agent's thread.
 *
 * PyGILState_Ensure makes a thread state before it has the GIL, and puts it on the interpreter's
 * list under a lock (HEAD_LOCK, Python/pystate.c). A fork by whoever has the GIL may copy that
 * lock as it is held; up to 3.11 the child takes it in PyOS_AfterFork_Child before it is made
 * anew, and waits for ever. A thread that has the GIL when it takes the lock can't be forked
 * meanwhile. So up to 3.11 the agent takes the GIL in the name of a stand-in, a thread state
 * of its own that is on no list, and makes and deletes the true one under it.
 *
 * Memory for the true one may come from an allocator that wants to know whose call it is: tracemalloc
 * calls PyGILState_Ensure. So the stand-in is this thread's for PyGILState, too, meanwhile:
 * under the pthread key that CPython keeps for it, which is found by trying.
 *
 * From 3.12 on a forked child makes the lock anew first, and PyThreadState_New does what Ensure
 * does, but for ending the process where it has no memory. It counts what it makes as ensured
 * once (gilstate_counter), so PyGILState_Release is the way back. */
#include "agent/python.h"

#define KEYS_TRIED 128 /* musl has no more; CPython makes its own when it starts */
#define STANDIN_SIZE 4096 /* at least sizeof(PyThreadState): 2272 in 3.6, 264 to 360 in 3.7 to 3.11 */
#define COUNTER_MAX (1 << 20)
#define MEMORY_STEP_MS 10  /* from one try to have a thread state to the next; doubled each time, */
#define MEMORY_STEP_MAX_MS 160 /* up to this: a heartbeat comes every 250 ms */
#define GILSTATE_UNLOCKED 1 /* PyGILState_UNLOCKED: this thread had no thread state in use before */
#define SPIN_NS 2000000ull /* between two looks whether the launcher is still there */

enum { KEY_UNKNOWN = -1, KEY_NONE = -2 };
enum made { MADE, NO_MEMORY, STRANGE };

static uint64_t standin[STANDIN_SIZE / sizeof(uint64_t)];
static uint64_t no_frame[8]; /* what tstate->cframe points to: current_frame is NULL */
static int key = KEY_UNKNOWN;
static bool believed; /* the place of gilstate_counter has been compared with a live one */
static void *own;     /* the true thread state, while there is one */

static int key_set(int k, void *ts)
{
    return PY(PyThread_set_key_value, int (*)(int, void *))(k, ts);
}

static void *key_get(int k)
{
    return PY(PyThread_get_key_value, void *(*)(int))(k);
}

static void current_set(void *ts)
{
    PY(PyThreadState_Swap, void *(*)(void *))(ts);
}

/* Only this thread's values are touched, and none that is in use. */
static int key_find(void)
{
    for (int k = 0; k < KEYS_TRIED; k++) {
        bool found;

        if (key_get(k) || key_set(k, standin))
            continue; /* another's, or no key */
        found = PY(PyGILState_GetThisThreadState, void *(*)(void))() == standin;
        key_set(k, NULL);
        if (found)
            return k;
    }
    return KEY_NONE;
}

static bool standin_ready(void)
{
    if (!g.layout.ts_gilstate || key == KEY_NONE)
        return false;
    FIELD(int32_t, standin, g.layout.ts_gilstate) = 1; /* PyGILState_Release deletes what comes to 0 */
    if (g.layout.frame_kind == FRAME_CFRAME)
        FIELD(void *, standin, g.layout.ts_frame) = no_frame;
    if (PY_HAS(PyInterpreterState_Main))
        FIELD(void *, standin, TS_INTERP) = py_main_interp(); /* 3.6 asks for it after it has the GIL */
    if (key == KEY_UNKNOWN)
        key = key_find();
    return key != KEY_NONE;
}

static void standin_leave(void)
{
    PY(PyEval_SaveThread, void *(*)(void))();
    key_set(key, NULL);
}

/* Every thread state has counted itself once (_PyGILState_NoteThreadStateIfUnlinked), but that of
 * a thread that has yet to begin (_PyThreadState_Prealloc). Sets believed; false: it lies elsewhere. */
static bool counter_is_there(void *interp)
{
    void *ts = PY(PyInterpreterState_ThreadHead, void *(*)(void *))(interp);
    int32_t n;

    for (; ts; ts = PY(PyThreadState_Next, void *(*)(void *))(ts)) {
        n = FIELD(int32_t, ts, g.layout.ts_gilstate);
        if (FIELD(void *, ts, TS_INTERP) != interp || n < 0 || n > COUNTER_MAX)
            return false;
        believed = believed || n > 0;
    }
    return true;
}

/* Without memory for a thread state, and without the GIL; from one try to the next. */
static void await_memory(int *step)
{
    mp_control_block.starved = 1;
    mp_control_block.heartbeat_ns = clock_ns(CLOCK_MONOTONIC);
    sys_poll(NULL, 0, *step);
    *step = 2 * *step < MEMORY_STEP_MAX_MS ? 2 * *step : MEMORY_STEP_MAX_MS;
}

/* NULL without memory, or when there soon is no interpreter. 3.11's PyThreadState_New makes
 * current what it may not have got; what it counts there is counted here. */
static void *state_new(void)
{
    void *ts;

    if (py_finalizing())
        return NULL;
    if (g.minor != 11 || !PY_HAS(_PyThreadState_Prealloc))
        return PY(PyThreadState_New, void *(*)(void *))(py_main_interp());
    ts = PY(_PyThreadState_Prealloc, void *(*)(void *))(py_main_interp());
    if (ts)
        FIELD(int32_t, ts, g.layout.ts_gilstate) = 1;
    return ts;
}

/* The GIL is held in the stand-in's name, and given back meanwhile, and where none is made:
 * without memory, or in a build that is not as expected. */
static enum made own_make(unsigned tries)
{
    bool there = believed || counter_is_there(py_main_interp());
    int step = MEMORY_STEP_MS;

    if (!believed) {
        standin_leave();
        if (!there)
            key = KEY_NONE; /* for good */
        return STRANGE;
    }
    while (!(own = state_new())) { /* Ensure would end the process */
        if (!--tries) {
            standin_leave();
            return NO_MEMORY;
        }
        PY(PyEval_SaveThread, void *(*)(void))();
        await_memory(&step);
        if (py_finalizing()) { /* taking the GIL would end this thread */
            key_set(key, NULL);
            return NO_MEMORY;
        }
        PY(PyEval_RestoreThread, void (*)(void *))(standin);
    }
    key_set(key, own);
    current_set(own);
    g.ensuring = 1;
    return MADE;
}

/* From 3.12 on. */
static bool ensure(unsigned tries, int *ret_state)
{
    int step = MEMORY_STEP_MS;
    void *ts;

    g.ensuring = 1;
    while (!(ts = state_new()) && !py_finalizing() && --tries)
        await_memory(&step);
    if (!ts) {
        g.ensuring = 0;
        return false;
    }
    PY(PyEval_RestoreThread, void (*)(void *))(ts);
    *ret_state = GILSTATE_UNLOCKED;
    return true;
}

static bool take(unsigned tries, int *ret_state)
{
    if (g.minor >= 12)
        return ensure(tries, ret_state);
    if (standin_ready()) {
        enum made made;

        key_set(key, standin);
        PY(PyEval_RestoreThread, void (*)(void *))(standin);
        made = own_make(tries);
        if (made != STRANGE) {
            *ret_state = 0;
            return made == MADE;
        }
    }
    g.ensuring = 1;
    *ret_state = PY(PyGILState_Ensure, int (*)(void))();
    return true;
}

bool py_try(unsigned tries, int *ret_state)
{
    bool taken;

    mp_control_block.gil_since_ns = clock_ns(CLOCK_MONOTONIC);
    taken = take(tries, ret_state);
    mp_control_block.starved = !taken && !py_finalizing();
    /* Python code that we call may lose it again */
    mp_control_block.gil_since_ns = taken ? clock_ns(CLOCK_MONOTONIC) : 0;
    py_interval_back();
    return taken;
}

static void leave(int state)
{
    void *ts = own;

    if (!ts) {
        PY(PyGILState_Release, void (*)(int))(state);
        g.ensuring = 0;
        return;
    }
    PY(PyThreadState_Clear, void (*)(void *))(ts);
    own = NULL;
    key_set(key, standin);
    current_set(standin);
    PY(PyThreadState_Delete, void (*)(void *))(ts);
    g.ensuring = 0;
    standin_leave();
}

void py_release(int state)
{
    leave(state);
    mp_control_block.gil_since_ns = 0;
    py_interval_back();
}

/* ---- 3.6: the first GIL ---------------------------------------------------------------
 *
 * PyEval_InitThreads makes the GIL and takes it in the name of the current thread state, for its
 * caller is the one thread that there is. We are not: so the launcher holds that thread still,
 * where it is not in a function that looks whether there is a GIL, and for as long we are it: its
 * thread state is current, and pthread_self() its own (%fs:16 in glibc, tcbhead_t), which also
 * leads to its pthread keys. InitThreads notes that word as the thread that minds signals and
 * pending calls. */

#define SETTLE_MS 10        /* from a GIL of the program's own to its being taken */
#define HOOKED_MAX 20       /* stops in which the program did not wait, where it has to */
#define COMING_NS 150000000ull /* a launcher that comes is waited for without sleep for so long */

struct allocator { /* PyMemAllocatorEx (Include/pymem.h) */
    void *ctx, *malloc, *calloc, *realloc, *free;
};

static unsigned hooked;

static bool gil_made(void)
{
    return g.minor != 6 || PY(PyEval_ThreadsInitialized, int (*)(void))();
}

static uint64_t self_set(uint64_t self)
{
    uint64_t was;

    __asm__ volatile("movq %%fs:16, %0" : "=r"(was));
    __asm__ volatile("movq %0, %%fs:16" : : "r"(self) : "memory");
    return was;
}

/* PyEval_InitThreads may allocate a lock, and tracemalloc has one of its own, which a thread that
 * stands anywhere may hold. CPython's own raw allocator has no context. */
static bool allocator_plain(void)
{
    struct allocator a = { .ctx = NULL };

    PY(PyMem_GetAllocator, void (*)(int, struct allocator *))(0 /* PYMEM_DOMAIN_RAW */, &a);
    return !a.ctx;
}

/* The thread of tcb stands. What to tell the launcher. */
static uint32_t gil_make(bool parked, uint64_t tcb)
{
    void *interp = PY(PyInterpreterState_Head, void *(*)(void))();
    void *ts = PY(PyInterpreterState_ThreadHead, void *(*)(void *))(interp);
    void *now = PY(_PyThreadState_UncheckedGet, void *(*)(void))();
    uint64_t self;

    if (gil_made())
        return MP_STANDSTILL_DONE;
    if (PY(PyInterpreterState_Next, void *(*)(void *))(interp) || !ts ||
        PY(PyThreadState_Next, void *(*)(void *))(ts) || (now && now != ts) ||
        FIELD(uint64_t, ts, g.layout.ts_gilstate + 16) != tcb) /* thread_id */
        return MP_STANDSTILL_NOT;
    if (!parked && !allocator_plain())
        return ++hooked < HOOKED_MAX ? MP_STANDSTILL_ASKED : MP_STANDSTILL_NOT;
    if (!parked && !now)
        return MP_STANDSTILL_ASKED; /* it may be about to see that there is no GIL */
    self = self_set(tcb);
    if (!now)
        current_set(ts);
    PY(PyEval_InitThreads, void (*)(void))();
    if (!now)
        PY(PyEval_SaveThread, void *(*)(void))();
    self_set(self);
    return MP_STANDSTILL_DONE;
}

static void gil_use(uint32_t word)
{
    struct mp_control *c = &mp_control_block;
    uint32_t answer;

    __atomic_store_n(&c->standstill_busy, 1, __ATOMIC_SEQ_CST);
    if (__atomic_load_n(&c->standstill, __ATOMIC_SEQ_CST) == word) { /* not taken back */
        answer = MP_STANDSTILL_ASKED;
        if (clock_ns(CLOCK_REALTIME) < c->standstill_until_ns)
            answer = gil_make(word == MP_STANDSTILL_PARKED, c->standstill_tcb);
        __atomic_store_n(&c->standstill, answer, __ATOMIC_SEQ_CST);
    }
    c->standstill_hold = 0;
    sys_futex_wake(&c->standstill_hold);
    __atomic_store_n(&c->standstill_busy, 0, __ATOMIC_SEQ_CST);
}

/* Until there is a GIL, or none can be made, or leaving() says true. */
static void gil_ask(bool (*leaving)(void))
{
    struct mp_control *c = &mp_control_block;
    uint64_t next = 0, coming = 0, now;
    uint32_t word;

    c->standstill = MP_STANDSTILL_ASKED;
    while ((word = c->standstill) != MP_STANDSTILL_DONE && word != MP_STANDSTILL_NOT) {
        now = clock_ns(CLOCK_MONOTONIC);
        coming = word != MP_STANDSTILL_COMING ? 0 : coming ? coming : now;
        if (word == MP_STANDSTILL_RUNNING || word == MP_STANDSTILL_PARKED)
            gil_use(word);
        else if (gil_made())
            c->standstill = MP_STANDSTILL_DONE; /* the program has started a thread */
        else if (coming && now < next)
            sys_yield();
        else if (leaving())
            return;
        else {
            wire_wait(coming && now - coming < COMING_NS ? 0 : 1);
            next = now + SPIN_NS;
            c->heartbeat_ns = now;
        }
    }
}

const char *py_gil_refused(void)
{
    return hooked >= HOOKED_MAX ?
        "this CPython 3.6 has started no thread yet, and so has no GIL; with tracemalloc, or another hook of "
        "its allocator, one can be made only while the program waits, which it did not" :
        "this CPython 3.6 has started no thread yet, and so has no GIL; none can be made, since the process's first thread "
        "is not the one that runs Python, or not the only one";
}

bool py_gil_needed(bool (*leaving)(void))
{
    struct mp_control *c = &mp_control_block;

    if (g.minor != 6)
        return true;
    if (!gil_made())
        gil_ask(leaving);
    if (c->standstill == MP_STANDSTILL_DONE || c->standstill == MP_STANDSTILL_NONE)
        sys_poll(NULL, 0, SETTLE_MS); /* the program's own may be a moment old, and not taken yet */
    return gil_made() && c->standstill != MP_STANDSTILL_NOT;
}
