/* PEP 523 hook, 3.6 - 3.11: the eval_frame slot points to the thunk, which calls
 * thunk_enter and thunk_exit around calls that are tracked.
 *
 * Depth is absolute: the number of frames below. For a frame called by the
 * thread's innermost tracked call it is one more than that; otherwise the chain
 * of callers is walked. A call at the deepest tracked depth makes its thread
 * quiet: what it calls is deeper, and the thunk lets it pass on three compares.
 *
 *      base            lowest frame seen calling since the hook, or a --root
 *      +- base + 1     tracked; recorded if in scope
 *      |  ...
 *      +- base + N     tracked; quiet from here on
 *
 * The C stack. Up to 3.10 a Python call costs it anyway; here only tracked calls cost
 * more, and a thread with a small stack keeps few of them. 3.11 runs Python calls
 * inlined, at no C stack at all, unless an eval-frame function is set: what was
 * harmless recursion would overflow it. So the hook rests, out of its slot, from the
 * moment a thread has used half of its stack until the tracked call below which that
 * happened returns, or a while has passed. The same makes a program of one thread
 * fast: there it rests as soon as a few calls below the depth are on the stack, or a
 * few more have come and gone.
 *
 * A thread's top is copied into struct thread, and what it was before into the
 * struct call on the C stack, which greenlets may copy away and back.
 * Frames are never touched in exit: 3.11 has popped them. */
#include "agent/maps.h"
#include "agent/python.h"

#define WALK_MAX (1 << 17)     /* frames walked at a thread's first call */
#define ROOT_WALK_MAX 4096
#define OWNED_BY_GENERATOR 1   /* _PyInterpreterFrame.owner, 3.11 */
#define TRACKED_BYTES (THUNK_CALL_SIZE + 48) /* of C stack for a tracked call: thunk.S */
#define TRACKED_SHARE 128      /* of a thread's stack, at most, is for tracked calls */
#define STACK_UNKNOWN 24576    /* how much of a stack that is not known may be used */
#define VERIFY_TRIES 8         /* of the one call that shows that the hook works */
#define REST_EARLY 3072        /* one thread: bytes below its top from which the hook rests */
#define REST_CALLS 16          /* one thread: calls below its top after which the hook rests */
#define REST_NS_MIN 50000000ull
#define REST_NS_MAX 1600000000ull

static struct thunk *page;
static bool alone;      /* 3.11: there has been one Python thread only */
static uint64_t rest_start, rest_length = REST_NS_MIN; /* clock */
static bool in_slot; /* the eval_frame slot, or a chain that starts there, leads to the page */

struct thunk *thunk_page(void)
{
    return page;
}

/* ---- the slot ---------------------------------------------------------------- */

uint64_t thunk_get_slot(void)
{
    if (g.layout.interp_eval)
        return FIELD(uint64_t, g.interp, g.layout.interp_eval);
    if (!PY_HAS(_PyInterpreterState_GetEvalFrameFunc))
        return 0;
    return (uint64_t)(uintptr_t)PY(_PyInterpreterState_GetEvalFrameFunc, void *(*)(void *))(g.interp);
}

static void set_slot(uint64_t f)
{
    if (g.layout.interp_eval)
        FIELD(volatile uint64_t, g.interp, g.layout.interp_eval) = f;
    else
        PY(_PyInterpreterState_SetEvalFrameFunc, void (*)(void *, void *))(g.interp, (void *)(uintptr_t)f);
}

/* Takes the thunk out of the slot. false: another tool is above it. */
static bool leave_slot(void)
{
    if (thunk_get_slot() != page->entry)
        return false;
    set_slot(page->orig);
    page->flags &= ~THUNK_CHAINED;
    in_slot = false;
    return true;
}

/* Where another tool's function was in the slot, we call it. When that tool puts its function there
 * again it finds ours, keeps it as what was there before, and calls it: round and round
 * without end. Then the slot holds what we would call. Under the GIL. */
static void break_circle(void)
{
    if (page->orig == thunk_get_slot())
        page->orig = g.sym[MP_SYM__PyEval_EvalFrameDefault];
}

/* For good. false: what is above us may go on calling the page, which stays. */
static bool leave_chain(void)
{
    bool left = leave_slot() || !in_slot;

    if (!left) {
        break_circle();
        page->flags |= THUNK_CHAINED;
    }
    in_slot = false;
    return left;
}

/* What is called after us. Where that may lead back, each call is looked at. */
static void set_orig(uint64_t f)
{
    page->orig = f ? f : g.sym[MP_SYM__PyEval_EvalFrameDefault];
    g.chained = page->orig != g.sym[MP_SYM__PyEval_EvalFrameDefault];
}

/* 3.6 - 3.8 have no accessors: the slot is where _PyEval_EvalFrameDefault's address
 * stands, at the expected offset, else at the only place of the first 2 KiB. Where
 * another tool holds the slot, its value is at least code of a known kind (our
 * own orphan), or the expected offset is not believed. */
static int find_slot(void)
{
    uint64_t want = g.sym[MP_SYM__PyEval_EvalFrameDefault];
    unsigned found = 0, at = 0;

    if (!g.layout.interp_eval || FIELD(uint64_t, g.interp, g.layout.interp_eval) == want)
        return 0;
    for (unsigned off = 0; off < 2048; off += 8)
        if (FIELD(uint64_t, g.interp, off) == want) {
            found++;
            at = off;
        }
    if (found == 1) {
        g.layout.interp_eval = (uint16_t)at;
        return 0;
    }
    return found ? fail_set(MP_FAIL_LAYOUT, 0, "the eval_frame slot is not unique", NULL) : 0;
}

/* ---- the page ------------------------------------------------------------------ */

/* A thunk page starts where an anonymous executable mapping ends. */
static struct thunk *line_thunk(const struct maps_line *l)
{
    const void *at = (const void *)(uintptr_t)l->hi;
    char magic[8];

    if (!l->exec || !l->anon || sys_read_self(g.pid, magic, at, 8) != 8 || memcmp(magic, THUNK_MAGIC, 8))
        return NULL;
    return (struct thunk *)(uintptr_t)at;
}

/* Not one that the launcher has claimed (thunk_page.h): it may be gone the next moment. */
static bool take_thunk(const struct maps_line *l, void *arg)
{
    struct thunk *t = line_thunk(l);
    uint32_t claimed;

    if (!t || sys_read_self(g.pid, &claimed, (const void *)&t->claimed, sizeof(claimed)) != sizeof(claimed) || claimed)
        return false;
    *(struct thunk **)arg = t;
    return true;
}

/* The first thunk of an earlier agent in this process, or NULL. */
static struct thunk *find_orphan(void)
{
    struct thunk *t = NULL;

    maps_each(take_thunk, &t);
    return t;
}

static int page_new(void)
{
    long p = sys_mmap(THUNK_LEN, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS), err;
    const char *eval = g.minor == 11 ? mp_thunk_eval311 : g.minor >= 9 ? mp_thunk_eval3 : mp_thunk_eval2;
    struct thunk *t;

    if (p < 0 && p > -4096)
        return fail_set(MP_FAIL_MEMORY, (int)-p, "no memory for the thunk", NULL);
    t = (struct thunk *)(p + THUNK_PAGE);
    memcpy((void *)p, mp_thunk_text, (size_t)(mp_thunk_end - mp_thunk_text));
    memcpy(t->magic, THUNK_MAGIC, 8);
    t->entry = (uint64_t)p + (uint64_t)(eval - mp_thunk_text);
    t->trace_entry = (uint64_t)p + (uint64_t)(mp_thunk_trace - mp_thunk_text);
    mem_name((void *)p, THUNK_LEN, MP_THUNK_NAME);
    err = sys_mprotect((void *)p, THUNK_PAGE, PROT_READ | PROT_EXEC);
    if (err < 0) {
        sys_munmap((void *)p, THUNK_LEN);
        return fail_set(MP_FAIL_EXECMEM, (int)-err, "the kernel refuses new machine code in it, and this CPython's hook needs some", NULL);
    }
    page = t;
    return 0;
}

static void page_free(struct thunk *t)
{
    sys_munmap((char *)t - THUNK_PAGE, THUNK_LEN);
}

void thunk_inert(void)
{
    if (page) {
        page->enter = page->exit = page->trace = 0;
        page->gen++;
        page->quiet_tid = 0;
    }
}

/* Another tracer may have kept our trace function, to put it back. */
void thunk_traced(void)
{
    page->flags |= THUNK_TRACED;
}

/* A page that the launcher has claimed is not written to: it may be gone the next moment. */
static bool recall(const struct maps_line *l, void *arg)
{
    struct thunk *t = line_thunk(l), was;
    unsigned n;

    if (t && sys_read_self(g.pid, &was, t, sizeof(was)) == sizeof(was) && (n = lines_cure(was.trace_entry))) {
        if (!was.claimed) {
            t->flags |= THUNK_TRACED;
            t->raised += n; /* by who put them there */
        }
        *(bool *)arg = true;
    }
    return false;
}

/* One that has been put back since the agent left is taken out, and is no other tool's. */
bool thunk_recall(void)
{
    bool found = false;

    maps_each(recall, &found);
    return found;
}

/* ---- quiet threads, and their stacks ------------------------------------------------- */

static void set_quiet(const struct thread *th, uintptr_t sp)
{
    if (g.chained)
        return;
    page->quiet_floor = alone && sp != UINTPTR_MAX && sp - REST_EARLY > th->stack_floor ? sp - REST_EARLY
                                                                                       : th->stack_floor;
    page->quiet_sp = sp;
    page->quiet_left = alone && sp != UINTPTR_MAX ? REST_CALLS : INT32_MAX;
    page->quiet_tid = (uint32_t)th->tid;
}

/* What the size of the thread's stack allows. */
static void measure_stack(struct thread *th)
{
    uintptr_t lo, sp = (uintptr_t)__builtin_frame_address(0);
    size_t size;
    bool known = thread_stack(&lo, &size);
    size_t n = known ? size / TRACKED_SHARE / TRACKED_BYTES : 2;

    th->tracked_max = n < 1 ? 1 : n > MP_DEPTH_MAX ? MP_DEPTH_MAX : (uint16_t)n;
    if (g.minor == 11)
        th->stack_floor = known ? lo + size / 2 : sp - STACK_UNKNOWN;
}

/* 3.11, a thread of which nothing is kept: whether half of its stack is used. */
static bool stack_low(uintptr_t sp)
{
    uintptr_t lo;
    size_t size;

    return g.minor == 11 && thread_stack(&lo, &size) && sp < lo + size / 2;
}

/* ---- rests (3.11) -------------------------------------------------------------------- */

/* Only a program that never had a second Python thread: others' calls would be missed. */
static void look_alone(void)
{
    void *ts = PY(PyInterpreterState_ThreadHead, void *(*)(void *))(g.interp);
    unsigned n = 0;

    for (; ts; ts = PY(PyThreadState_Next, void *(*)(void *))(ts))
        n++;
    alone = alone && n <= 1 + g.ensuring;
}

/* th: whose tracked call ends the rest when it returns, or NULL. */
static void rest_begin(struct thread *th)
{
    if (!in_slot || page->orig != g.sym[MP_SYM__PyEval_EvalFrameDefault] || !leave_slot())
        return;
    page->quiet_tid = 0;
    g.rests++;
    rest_start = clock_ns(CLOCK_MONOTONIC);
    if (th)
        th->resting = true;
    g.resting = true;
}

static void rest_end(void)
{
    if (!g.resting)
        return;
    g.resting = false;
    if (!alone)
        g.rest_ns += clock_ns(CLOCK_MONOTONIC) - rest_start;
    if (!in_slot && thunk_get_slot() == page->orig) {
        set_slot(page->entry);
        in_slot = true;
    }
}

/* Whether the hook should rest: the call at sp stands too low on the C stack, or is one
 * of many that are not tracked. */
static bool rest_wanted(struct thread *th, uintptr_t sp)
{
    if (sp < th->stack_floor)
        return true;
    if (!alone || g.no_quiet || !th->top_frame || (th->top_abs < th->limit && !th->skipping))
        return false;
    if (th->top_sp <= sp || (th->top_sp - sp < REST_EARLY && (page->quiet_left >= 0 || page->quiet_tid != (uint32_t)th->tid)))
        return false;
    look_alone();
    return alone;
}

/* What depends on the governor's words is looked at again. */
void thunk_wake(void)
{
    if (page)
        page->quiet_tid = 0;
}

/* Takes the thunk out of the slot, unless another tool is above it, and puts it back.
 * Calls that are inside return through it; their exits are void by then. */
void thunk_pause(bool on)
{
    if (!page)
        return;
    if (on)
        rest_end();
    if (on && in_slot) {
        leave_slot();
    } else if (!on && !in_slot) {
        set_orig(thunk_get_slot());
        set_slot(page->entry);
        in_slot = true;
    }
    page->gen++;
    page->quiet_tid = 0;
    if (g.lines)
        lines_pause();
}

/* ---- counting frames --------------------------------------------------------------- */

/* Frames from `frame` down to the thread's first, but no more than max + 1. */
static int32_t count_frames(const void *frame, int32_t max)
{
    int32_t n = 0;

    for (; frame && n <= max; frame = frame_back(frame))
        n++;
    return n;
}

/* Steps from `frame` to the nearest frame of a --root function: 1 for itself; 0
 * when there is none within max. */
static int32_t root_distance(const void *frame, int32_t max)
{
    for (int32_t n = 1; frame && n <= max; frame = frame_back(frame), n++)
        if (code_find(frame_code(frame), frame_globals(frame))->flags & CODE_ROOT)
            return n;
    return 0;
}

/* Depth of a frame by its caller, lowering the thread's base if need be. */
static int32_t depth_absolute(struct thread *th, const void *caller)
{
    int32_t abs;

    if (likely(th->top_frame && caller == th->top_frame && !g.greenlets))
        return th->top_abs + 1;
    abs = count_frames(caller, th->fresh ? WALK_MAX : th->limit + 1);
    if (th->fresh || abs - 1 < th->base)
        thread_set_base(th, abs - 1);
    th->fresh = false;
    return abs;
}

/* The same from a --root: distance to the nearest one, DEPTH_NONE outside. */
static int32_t depth_from_root(struct thread *th, const void *caller, const struct code *code)
{
    int32_t n;

    if (code->flags & CODE_ROOT)
        return 0;
    if (th->top_frame && !g.greenlets) {
        if (th->top_abs >= th->limit)
            return DEPTH_NONE;
        if (caller == th->top_frame)
            return th->top_abs + 1;
        n = root_distance(caller, th->limit);
    } else if (th->fresh || th->pre_root || g.greenlets) {
        n = root_distance(caller, th->fresh || !g.greenlets ? ROOT_WALK_MAX : th->limit);
        th->fresh = false;
        th->pre_root = n > 0;
    } else {
        return DEPTH_NONE;
    }
    return n ? n : DEPTH_NONE;
}

/* ---- enter and exit ------------------------------------------------------------------ */

static void push(struct thread *th, struct call *c, const void *frame, struct code *code, int32_t abs)
{
    c->thread = th;
    c->code = code;
    c->frame = frame;
    c->gen = page->gen;
    c->depth_abs = abs;
    c->prev_base = th->base;
    c->prev_frame = th->top_frame;
    c->prev_sp = th->top_sp;
    c->prev_abs = th->top_abs;
    c->prev_weight_log2 = th->weight_log2;
    c->flags = 0;
    th->top_frame = frame;
    th->top_sp = (uintptr_t)c;
    th->top_abs = abs;
    th->ntracked++;
}

static enum call_kind kind_of(struct thread *th, struct call *c)
{
    int weight;

    if (!g.roots && c->code->flags & CODE_BASE && c->depth_abs == th->base + 1)
        return CALL_BASE;
    if (c->depth_abs - th->base > (int32_t)g.gov.depth)
        return CALL_GUARD;
    if (!(c->code->flags & CODE_SCOPE))
        return CALL_PASS;
    weight = call_weight(th, c->code);
    if (weight < 0)
        return CALL_SKIP;
    c->weight_log2 = th->weight_log2 = (uint8_t)weight;
    return CALL_RECORD;
}

/* What the governor changed since this thread last looked. */
static void follow(struct thread *th, uint32_t force)
{
    if (FORCE_EPOCH(th->force) != FORCE_EPOCH(force)) {
        th->ntracked = 0;
        th->resting = false;
        th->top_frame = NULL;
        th->top_abs = DEPTH_NONE;
        th->skipping = false;
        th->weight_log2 = 0;
    }
    th->force = force;
    thread_set_base(th, th->base);
}

static int enter_near(struct thread *th, const char *frame, struct call *c, char *tstate)
{
    const void *caller = g.layout.frame_kind == FRAME_OBJECT ? frame_back(frame) : frame_current(tstate);
    struct code *code = NULL;
    int32_t abs;

    if (g.roots) {
        code = code_find(frame_code(frame), frame_globals(frame));
        abs = depth_from_root(th, caller, code);
        if (abs == DEPTH_NONE)
            return 0;
    } else {
        abs = depth_absolute(th, caller);
    }
    if (abs > th->limit)
        return 0;
    if (unlikely(th->ntracked >= th->tracked_max)) {
        g.lost_depth++;
        return 0;
    }
    if (!code)
        code = code_find(frame_code(frame), frame_globals(frame));
    /* 3.11: calling a generator function runs its frame up to RETURN_GENERATOR,
     * which makes the generator. That is no run of it. */
    if (g.minor == 11 && code->flags & CODE_GENERATOR && FIELD(uint8_t, frame, g.layout.frame_owner) != OWNED_BY_GENERATOR)
        return 0;
    push(th, c, frame, code, abs);
    c->kind = (uint8_t)kind_of(th, c);
    c->depth = (uint16_t)(abs - th->base);
    if (code->flags & CODE_GENERATOR && (g.minor == 11 || FIELD(int32_t, frame, g.layout.frame_lasti) >= 0))
        c->flags = MP_REC_RESUMED;
    th->skipping = c->kind == CALL_SKIP;
    if (c->kind == CALL_BASE)
        thread_set_base(th, abs);
    else if (th->skipping || (abs >= th->limit && !g.no_quiet))
        set_quiet(th, (uintptr_t)c);
    if (g.lines)
        lines_enter(th, c, tstate);
    if (c->kind == CALL_RECORD)
        call_begin(th, c);
    return 1;
}

/* Under the GIL, in a hook: the agent is leaving, and waits for the GIL. */
static void step_out(void)
{
    if (hook_stays_live() && in_slot)
        leave_slot();
}

/* In a forked child nobody counted the functions that another tracer took from inside
 * calls that were under way. */
static void keep_copied_trace(uint64_t calls)
{
    if (page->trace && calls)
        page->flags |= THUNK_COPIED;
}

static int thunk_enter(const char *frame, struct call *c, char *tstate)
{
    struct thread *th;

    if (unlikely(g.chained))
        break_circle();
    if (unlikely(!*g.armed)) {
        hook_disarmed();
        step_out();
        return 0;
    }
    th = thread_current();
    if (unlikely(!th)) {
        if (stack_low((uintptr_t)c))
            rest_begin(NULL);
        return 0;
    }
    g.events++;
    if (unlikely(th->force != g.force))
        follow(th, g.force);
    if (unlikely(!th->tracked_max))
        measure_stack(th);
    if (g.minor == 11 && unlikely(rest_wanted(th, (uintptr_t)c))) {
        rest_begin(th);
        return 0;
    }
    if (unlikely(th->skip)) {
        set_quiet(th, UINTPTR_MAX);
        return 0;
    }
    if (th->top_frame) {
        /* The stack grows down: a top that is not above us was left by a longjmp,
         * or belongs to another greenlet. */
        if (unlikely(th->top_sp <= (uintptr_t)c)) {
            th->top_frame = NULL;
            th->top_abs = DEPTH_NONE;
            th->skipping = false;
            th->ntracked = 0;
        } else if (th->skipping || (th->top_abs >= th->limit && !g.no_quiet)) {
            set_quiet(th, th->top_sp);
            return 0;
        }
    }
    return enter_near(th, frame, c, tstate);
}

static void thunk_exit(struct call *c, void *result)
{
    struct thread *th = c->thread;

    if (unlikely(!*g.armed)) {
        if (g.lines && g.armed[1] == MP_ARMED_MARK)
            lines_leave(th);
        else /* a forked child, which has no struct thread; this call was under way, and is counted no more */
            keep_copied_trace(1);
        hook_disarmed();
        return;
    }
    if (unlikely(th->top_sp != (uintptr_t)c && th->top_frame))
        g.greenlets = g.no_quiet = true; /* returns out of order: stacks are being switched */
    if (c->kind == CALL_RECORD)
        call_end(c, result ? 0 : MP_REC_RAISED);
    if (g.lines)
        lines_exit(th, c);
    th->top_frame = c->prev_frame;
    th->top_sp = c->prev_sp;
    th->top_abs = c->prev_abs;
    th->ntracked -= th->ntracked > 0;
    if (unlikely(th->resting)) {
        th->resting = false;
        rest_length = REST_NS_MIN;
        rest_end();
    }
    th->weight_log2 = c->prev_weight_log2;
    th->skipping = false; /* nothing is tracked inside of what is skipped: this was it */
    if (c->kind == CALL_BASE)
        thread_set_base(th, c->prev_base);
    if (th->top_frame && th->top_abs >= th->limit && !g.no_quiet)
        set_quiet(th, th->top_sp);
    else
        page->quiet_tid = 0;
}

/* ---- install ---------------------------------------------------------------------------- */

static struct {
    PyObj *code, *globals;
    bool asked, seen, right, crowded;
} probe;

/* Stands in for thunk_enter while the agent calls one known function on its own
 * thread: are frame, code, globals and caller where the table says? Other frames may
 * come first: of an audit hook, a finalizer. */
static int verify_enter(const char *frame, struct call *c, char *tstate)
{
    const void *caller;

    break_circle();
    if (tid_now() != g.agent_tid && stack_low((uintptr_t)c))
        probe.crowded = leave_slot();
    if (tid_now() != g.agent_tid || probe.right)
        return 0;
    probe.seen = true;
    if (g.layout.frame_kind == FRAME_OBJECT && py_type(frame) != PY_FRAME_TYPE)
        return 0;
    caller = g.layout.frame_kind == FRAME_OBJECT ? frame_back(frame) : frame_current(tstate);
    probe.right = frame_code(frame) == probe.code && frame_globals(frame) == probe.globals && !caller;
    return 0;
}

static void enter_slot(void)
{
    if (!in_slot)
        set_slot(page->entry);
    in_slot = true;
}

/* Calls the known function through the hook, again where a thread without room on its
 * stack took the hook out. Whether it could be called. */
static bool probe_call(void)
{
    PyObj *f = hook_known_function(), *arg = py_sys("getrecursionlimit"), *result = NULL;
    int tries = VERIFY_TRIES;

    page->enter = (uint64_t)(uintptr_t)verify_enter;
    probe.code = hook_known_attr(f, "__code__");
    probe.globals = probe.code ? hook_known_attr(f, "__globals__") : NULL;
    probe.seen = probe.right = probe.asked = false;
    do {
        enter_slot();
        probe.crowded = false;
        if (probe.globals && (result = py_call(f, arg)))
            py_decref(result);
        py_error_clear();
    } while (probe.crowded && !probe.right && --tries);
    py_decref(f);
    if (probe.code)
        py_decref(probe.code);
    if (probe.globals)
        py_decref(probe.globals);
    probe.asked = probe.globals;
    return result;
}

static int verify_call(void)
{
    bool called = probe_call();

    if (!probe.asked)
        return -MP_FAIL_AUDIT;
    if (!called || !probe.seen || !probe.right)
        return fail_set(MP_FAIL_LAYOUT, 0, "the eval-frame hook did not see the frame it should",
                        probe.seen ? "frame fields" : "not called");
    return 0;
}

static void control_thunk(void)
{
    mp_control_block.thunk_base = page ? (uint64_t)(uintptr_t)page - THUNK_PAGE : 0;
    mp_control_block.thunk_len = page ? THUNK_LEN : 0;
}

static void take_page(struct thunk *t)
{
    page = t;
    thunk_inert();
    page->tid_offset = g.tid_offset;
    page->owner_pid = g.pid;
    page->frame_offset = offsetof(struct call, frame);
}

/* Whether the page that an earlier agent left is in the slot, or called by what is. */
static bool is_in_place(void)
{
    if (page->entry == thunk_get_slot())
        return true;
    if (!(page->flags & THUNK_CHAINED))
        return false;
    in_slot = true;
    (void)!probe_call(); /* in which others may have had the GIL */
    thunk_inert();
    return probe.seen || page->entry == thunk_get_slot();
}

/* A page left by an earlier agent is used again. If someone calls it, or it is in
 * the slot, what it calls stays as it is: pointing it at the slot's value would
 * make a circle. If someone may call it, but does not now, it is left alone, unless nobody
 * is there to make a circle with. */
static int attach_page(void)
{
    struct thunk *left = find_orphan();
    uint64_t slot;

    if (left) {
        take_page(left);
        in_slot = is_in_place();
        if (in_slot) {
            set_orig(page->orig);
            return 0;
        }
    }
    slot = thunk_get_slot();
    if (left)
        page = left->flags & THUNK_CHAINED && slot != g.sym[MP_SYM__PyEval_EvalFrameDefault] ? NULL : left;
    if (!page) {
        if (page_new() < 0)
            return -1;
        take_page(page);
    }
    set_orig(slot);
    set_slot(page->entry);
    in_slot = true;
    return 0;
}

int thunk_install(void)
{
    int err = find_slot();

    if (err || (err = attach_page()))
        return err;
    if ((err = verify_call())) {
        thunk_uninstall();
        return err;
    }
    alone = g.minor == 11;
    look_alone();
    rest_length = REST_NS_MIN;
    page->exit = (uint64_t)(uintptr_t)thunk_exit;
    page->enter = (uint64_t)(uintptr_t)thunk_enter;
    enter_slot();
    control_thunk();
    return 0;
}

/* A thread was born, or the while is over: a rest ends. What is still deep on its
 * stack begins another one with its next call, at the cost of one frame; the whiles
 * double so that this stays few. */
void thunk_round(uint64_t now)
{
    static uint32_t tasks;
    uint32_t n;
    int state;

    if (!g.resting)
        return;
    n = sys_task_count();
    if (n == tasks && now - rest_start < rest_length)
        return;
    tasks = n;
    if (py_finalizing() || !py_try(1, &state))
        return;
    if (g.resting) {
        rest_length = 2 * rest_length < REST_NS_MAX ? 2 * rest_length : REST_NS_MAX;
        rest_end();
    }
    py_release(state);
}

/* May be called again later, to free the page once nothing is in flight any more.
 * Under the GIL nobody executes the thunk's own instructions: a thread in them
 * holds the GIL. inflight 0 then means that nobody will return into them. */
void thunk_uninstall(void)
{
    if (!page)
        return;
    thunk_inert();
    if (!leave_chain())
        mp_control_block.residue |= MP_RESIDUE_CHAINED;
    lines_lower(page); /* others may have the GIL meanwhile, and change the slot: it is not ours any more */
    /* Somebody put it there, and that thread may be about to call it. But for calls that are copies of the parent's. */
    if (lines_cure(page->trace_entry) && (page->owner_pid == g.pid || !page->inflight))
        thunk_traced();
    if (page->inflight)
        mp_control_block.residue |= MP_RESIDUE_THUNK;
    else
        mp_control_block.residue &= ~MP_RESIDUE_THUNK;
    if (page->flags & (THUNK_TRACED | THUNK_COPIED))
        mp_control_block.residue |= MP_RESIDUE_TRACE;
    if (!page->inflight && !(page->flags & (THUNK_CHAINED | THUNK_TRACED | THUNK_COPIED))) {
        page_free(page);
        page = NULL;
    }
    control_thunk();
}

/* In a forked child: nobody will come to take the hook out. Under the GIL, in a hook. */
void thunk_leave_child(void)
{
    if (!page)
        return;
    keep_copied_trace(page->inflight);
    thunk_inert();
    (void)leave_chain();
    if (g.lines)
        lines_cure(page->trace_entry);
}

static bool is_hooked(const struct maps_line *l, void *arg)
{
    const struct thunk *t = line_thunk(l);

    (void)arg;
    return t && (t->enter || t->exit || t->trace);
}

/* What is in the slot, if it is not what is always there, may lead to the page. */
bool thunk_cure(void)
{
    uint64_t slot;
    int calls;

    if (find_slot())
        return false;
    if ((page = find_orphan())) {
        keep_copied_trace(page->inflight);
        thunk_inert();
        if (page->owner_pid != g.pid && page->inflight && (calls = thunk_calls_here(page)) >= 0)
            page->inflight = (uint64_t)calls;
        slot = thunk_get_slot();
        in_slot = page->flags & THUNK_CHAINED || (slot && slot != g.sym[MP_SYM__PyEval_EvalFrameDefault]);
        thunk_uninstall();
    }
    return !maps_each(is_hooked, NULL);
}
