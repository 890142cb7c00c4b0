/* The callbacks of sys.monitoring, 3.12 and 3.13: call, resume, throw, return, yield
 * and unwind of every function. C functions with METH_FASTCALL; they never raise and
 * never let go of the GIL.
 *
 * Depth is absolute: the number of frames below, counted up to the limit, or from the
 * innermost tracked frame, whichever is met first. Tracked calls stand in the thread's
 * shadow stack and are known by their frame's address, so no event has to balance
 * another, and those that can't matter are switched off:
 *
 *      base            lowest frame seen calling since the hook, or a --root
 *      +- base + 1     tracked; recorded if in scope
 *      |  ...
 *      +- base + N     tracked; the thread is quiet from here on
 *         +- deeper    after FADE_AFTER of these the function's events answer DISABLE
 *
 * A function that is called within the depth (near_in) stays on. One that is
 * switched off is looked at again when monitor_rearm says so (hook_round): till then
 * it is not seen even if it is called within the depth, the blind window that meta and
 * status tell. */
#include "agent/monitor.h"

#define WALK_MAX (1 << 17) /* frames walked at a thread's first event */
#define DEEP 0x40000000    /* deeper than any limit */
#define HEAT_SETS 1024u    /* a power of two */
#define HEAT_WAYS 4u       /* a cache line of them */
#define FADE_AFTER 64      /* events outside of the depth until a function is switched off */
#define FADE_AGAIN 4       /* the same for one that was switched off before */
#define HEAT_NEAR UINT16_MAX
#define STALE_LOOK 4u      /* tracked calls that a return is compared with before greenlets are known */

/* A cache of what is known of code objects that are called below the depth; one that
 * is pushed out by another counts anew. With one place for a code object two that take
 * turns pushed each other out for ever, and neither was switched off. */
static struct heat {
    const void *pycode; /* not owned: only compared */
    uint32_t round;     /* g.round of the count; of HEAT_NEAR: code's near_in */
    uint16_t count;     /* events in this round; HEAT_NEAR: not to be switched off */
    uint16_t faded;     /* was switched off in an earlier round */
} *heat;

int events_init(void)
{
    heat = mem_map(HEAT_SETS * HEAT_WAYS * sizeof(*heat), true);
    return heat ? 0 : -SYS_ENOMEM;
}

/* Changes with what "within the depth" means: when the governor moves the depth, and
 * when a thread's base settles lower, so that what was near may be far. */
static inline uint32_t near_stamp(void)
{
    return g.force + 0x9e3779b9u * g.settled + 1;
}

static inline bool is_near(const struct code *c)
{
    return c->near_in == near_stamp();
}

static bool heat_counts(const struct heat *h)
{
    return h->round == g.round && h->count < (h->faded ? FADE_AGAIN : FADE_AFTER);
}

/* What is known of a near one, or of one that is switched off, can be had again. */
static unsigned heat_worth(const struct heat *h)
{
    return !h->pycode ? 0 : heat_counts(h) ? 2u + h->count : 1;
}

/* Puts a code object that is not in its set into the place of the one worth least. */
static struct heat *heat_enter(struct heat *set, const void *pycode)
{
    const struct code *c = code_known(pycode);
    struct heat *h = set;

    for (unsigned i = 1; i < HEAT_WAYS; i++)
        if (heat_worth(&set[i]) < heat_worth(h))
            h = &set[i];
    *h = (struct heat){ .pycode = pycode, .round = g.round };
    if (c && is_near(c))
        *h = (struct heat){ .pycode = pycode, .round = c->near_in, .count = HEAT_NEAR };
    return h;
}

static inline struct heat *heat_of(const void *pycode)
{
    struct heat *set = &heat[((uint64_t)(uintptr_t)pycode * 0x9e3779b97f4a7c15ull >> 40) % HEAT_SETS * HEAT_WAYS];
    struct heat *h = set;

    while (h < set + HEAT_WAYS && h->pycode != pycode)
        h++;
    if (unlikely(h == set + HEAT_WAYS))
        return heat_enter(set, pycode);
    if (unlikely(h->count == HEAT_NEAR && h->round != near_stamp()))
        *h = (struct heat){ .pycode = pycode, .round = g.round };
    return h;
}

/* The answer to an event that is of no interest. */
static PyObj *far_event(const void *pycode)
{
    struct heat *h = heat_of(pycode);
    const struct code *c;

    if (h->count == HEAT_NEAR)
        return monitor_none;
    g.fading++;
    if (h->round != g.round) {
        h->faded = h->faded || h->count >= FADE_AFTER;
        h->round = g.round;
        h->count = 0;
    }
    h->count += h->count < FADE_AFTER;
    if (h->count < (h->faded ? FADE_AGAIN : FADE_AFTER))
        return monitor_none;
    c = code_known(pycode);
    if (unlikely(c && c->active)) { /* the return of a tracked call must be seen */
        h->count = 0;
        return monitor_none;
    }
    g.faded++;
    return monitor_disable;
}

static void near_code(struct code *code, const void *pycode)
{
    struct heat *h;

    if (likely(is_near(code)))
        return;
    h = heat_of(pycode);
    code->near_in = h->round = near_stamp();
    h->count = HEAT_NEAR;
}

/* ---- the shadow stack ------------------------------------------------------------ */

/* top_frame, top_abs and quiet follow from the shadow stack and the limit. */
static void set_top(struct thread *th)
{
    const struct call *c = th->nshadow ? &th->shadow[th->nshadow - 1] : NULL;

    th->top_frame = c ? c->frame : th->root_frame;
    th->top_abs = c ? c->depth_abs : th->root_frame ? 0 : DEPTH_NONE;
    th->quiet = c && (c->kind == CALL_SKIP || (c->depth_abs >= th->limit && !g.roots));
}

static void rebase(struct thread *th, int32_t base)
{
    thread_set_base(th, base);
    set_top(th);
}

static bool sets_base(const struct call *c)
{
    return c->kind == CALL_BASE || (g.roots && c->code->flags & CODE_ROOT);
}

/* Takes entry i off; those above it stay (greenlets). */
static void shadow_drop(struct thread *th, uint32_t i)
{
    const struct call c = th->shadow[i];

    for (th->nshadow--; i < th->nshadow; i++)
        th->shadow[i] = th->shadow[i + 1];
    th->weight_log2 = c.prev_weight_log2;
    c.code->active--;
    if (sets_base(&c)) {
        th->in_root = c.prev_root;
        thread_set_base(th, c.prev_base);
    }
    set_top(th);
}

/* What the governor changed since this thread last looked. After a pause the tracked
 * calls are void: their returns were not seen. */
static void follow(struct thread *th, uint32_t force)
{
    if (FORCE_EPOCH(th->force) != FORCE_EPOCH(force)) {
        while (th->nshadow)
            shadow_drop(th, th->nshadow - 1);
        th->weight_log2 = 0;
        th->root_frame = NULL;
        th->fresh = th->fresh || g.roots;
    }
    th->force = force;
    rebase(th, th->base);
    /* What is now too deep may have its events switched off before it returns. */
    while (th->nshadow && th->top_abs > th->limit && !sets_base(&th->shadow[th->nshadow - 1]))
        shadow_drop(th, th->nshadow - 1);
}

static struct call *shadow_push(struct thread *th, const void *frame, const void *pycode, struct code *code, int32_t abs)
{
    struct call *c;

    /* No two live calls stand at one depth, or in one frame: a return was not seen. */
    while (th->nshadow && (!g.greenlets ? th->top_abs >= abs : th->top_frame == frame))
        shadow_drop(th, th->nshadow - 1);
    if (th->nshadow == SHADOW_MAX) {
        g.lost_depth++;
        return NULL;
    }
    c = &th->shadow[th->nshadow++];
    thread_touch(th, c);
    thread_touch(th, (const char *)(c + 1) - 1);
    c->thread = th;
    c->code = code;
    c->frame = frame;
    c->pycode = pycode;
    c->depth_abs = abs;
    c->prev_base = th->base;
    c->prev_root = th->in_root;
    c->prev_weight_log2 = th->weight_log2;
    c->flags = 0;
    code->active++;
    return c;
}

/* ---- depth ------------------------------------------------------------------------- */

/* First event of a thread: where is its base? Without --root all that is below the
 * frame that begins; else a root that is already on the stack, if any. */
static void settle(struct thread *th, const void *frame)
{
    const void *f = frame_back(frame);
    int32_t n = 0;

    th->fresh = false;
    for (; f && n < WALK_MAX; f = frame_back(f), n++)
        if (g.roots && code_find(frame_code(f), frame_globals(f))->flags & CODE_ROOT) {
            th->root_frame = f;
            th->in_root = true;
            rebase(th, 0);
            return;
        }
    rebase(th, g.roots ? DEPTH_NONE : n - 1);
}

/* Of `frame`, or DEEP when that is more than the limit or, under --root, outside. */
static int32_t depth_of(const struct thread *th, const void *frame)
{
    const void *f = frame_back(frame);
    int32_t n = 0;

    if (g.roots && !th->top_frame)
        return DEEP;
    for (; f; f = frame_back(f), n++) {
        if (f == th->top_frame)
            return th->nshadow && th->shadow[th->nshadow - 1].kind == CALL_SKIP ? DEEP : th->top_abs + 1 + n;
        if (n > th->limit)
            return DEEP;
    }
    return g.roots ? DEEP : n;
}

/* ---- events -------------------------------------------------------------------------- */

static void track(struct thread *th, const void *frame, const void *pycode, struct code *code, int32_t abs,
                  enum call_kind kind, unsigned flags)
{
    int weight = kind == CALL_RECORD ? call_weight(th, code) : 0;
    struct call *c = shadow_push(th, frame, pycode, code, abs);

    if (!c)
        return;
    c->kind = (uint8_t)(weight < 0 ? CALL_SKIP : kind);
    if (sets_base(c)) {
        th->in_root = g.roots;
        rebase(th, abs);
    }
    set_top(th);
    if (c->kind != CALL_RECORD)
        return;
    c->weight_log2 = th->weight_log2 = (uint8_t)weight;
    c->depth = (uint16_t)(abs - th->base);
    c->flags = (uint16_t)flags;
    if (g.lines)
        lines_code(pycode);
    call_begin(th, c);
}

/* Throw and unwind are for all functions or for none: no answer switches them off. */
static inline PyObj *far(const void *pycode, bool fades)
{
    return fades ? far_event(pycode) : monitor_none;
}

static PyObj *enter_at(struct thread *th, const void *frame, const void *pycode, unsigned flags, bool fades)
{
    int32_t abs = depth_of(th, frame);
    struct code *code;

    if (g.roots) {
        code = code_find(pycode, frame_globals(frame));
        if (code->flags & CODE_ROOT) {
            near_code(code, pycode);
            track(th, frame, pycode, code, !th->top_frame ? 0 : abs == DEEP ? th->top_abs + 1 : abs, CALL_RECORD, flags);
            return monitor_none;
        }
    } else if (unlikely(abs - 1 < th->base)) {
        rebase(th, abs - 1);
        g.settled++;
    }
    if (abs > th->limit)
        return far(pycode, fades);
    code = code_find(pycode, frame_globals(frame));
    if (!g.roots && code->flags & CODE_BASE && abs == th->base + 1) {
        near_code(code, pycode);
        track(th, frame, pycode, code, abs, CALL_BASE, flags);
    } else if (code->flags & CODE_SCOPE) {
        near_code(code, pycode);
        track(th, frame, pycode, code, abs, CALL_RECORD, flags);
    } else if (abs - th->base > 1) {
        return far(pycode, fades);
    } else {
        near_code(code, pycode); /* not of interest itself, but it tells where the base is */
    }
    return monitor_none;
}

/* The thread, if its events count; an event is counted. */
static inline struct thread *thread_event(void)
{
    struct thread *th = thread_current();
    uint32_t force;

    if (unlikely(!th) || unlikely(th->skip))
        return NULL;
    g.events++;
    force = g.force;
    if (unlikely(th->force != force))
        follow(th, force);
    return th;
}

/* In a forked child the hook is inert for good: DISABLE makes it free as well. */
static inline PyObj *enter(const void *pycode, unsigned flags, bool fades)
{
    struct thread *th;
    const void *frame;

    if (unlikely(!*g.armed)) {
        hook_disarmed();
        return monitor_disable;
    }
    if (!(th = thread_event()))
        return monitor_none;
    g.raises += !fades;
    if (th->quiet && likely(!g.greenlets))
        return far(pycode, fades);
    frame = frame_current(py_tstate());
    if (unlikely(!frame || frame_code(frame) != pycode))
        return monitor_none;
    if (unlikely(th->fresh))
        settle(th, frame);
    return enter_at(th, frame, pycode, flags, fades);
}

/* The tracked call of `frame` ends; those above it, without greenlets, have ended unseen. */
static void leave_tracked(struct thread *th, uint32_t i, const void *pycode, unsigned flags)
{
    struct call *c = &th->shadow[i];

    while (!g.greenlets && th->nshadow - 1 > i)
        shadow_drop(th, th->nshadow - 1);
    if (c->kind == CALL_RECORD && c->pycode == pycode)
        call_end(c, flags);
    shadow_drop(th, i);
}

static inline PyObj *leave(const void *pycode, unsigned flags, bool fades)
{
    struct thread *th;
    const void *frame;

    if (unlikely(!*g.armed)) {
        hook_disarmed();
        return monitor_disable;
    }
    if (!(th = thread_event()))
        return monitor_none;
    g.raises += !fades;
    frame = frame_current(py_tstate());
    if (unlikely(!frame))
        return monitor_none;
    for (uint32_t i = th->nshadow, look = 0; i-- > 0 && (look < STALE_LOOK || g.greenlets); look++)
        if (th->shadow[i].frame == frame) {
            leave_tracked(th, i, pycode, flags);
            return monitor_none;
        }
    if (unlikely(frame == th->root_frame)) {
        th->root_frame = NULL;
        th->in_root = false;
        rebase(th, DEPTH_NONE);
        return monitor_none;
    }
    return far(pycode, fades);
}

static PyObj *on_start(PyObj *self, PyObj *const *args, int64_t n)
{
    (void)self, (void)n;
    return enter(args[0], 0, true);
}
static PyObj *on_resume(PyObj *self, PyObj *const *args, int64_t n)
{
    (void)self, (void)n;
    return enter(args[0], MP_REC_RESUMED, true);
}

static PyObj *on_throw(PyObj *self, PyObj *const *args, int64_t n)
{
    (void)self, (void)n;
    enter(args[0], MP_REC_RESUMED, false);
    return monitor_none; /* DISABLE is an error here (Python/instrumentation.c) */
}
static PyObj *on_return(PyObj *self, PyObj *const *args, int64_t n)
{
    (void)self, (void)n;
    return leave(args[0], 0, true);
}
static PyObj *on_yield(PyObj *self, PyObj *const *args, int64_t n)
{
    (void)self, (void)n;
    return leave(args[0], MP_REC_YIELDED, true);
}
static PyObj *on_unwind(PyObj *self, PyObj *const *args, int64_t n)
{
    (void)self, (void)n;
    leave(args[0], MP_REC_RAISED, false);
    return monitor_none;
}

/* A line of the running call is recorded only if that call is: the code's line
 * events fire at every depth. */
static PyObj *on_line(PyObj *self, PyObj *const *args, int64_t n)
{
    struct thread *th;

    (void)self, (void)n;
    if (unlikely(!*g.armed)) {
        hook_disarmed();
        return monitor_disable;
    }
    th = thread_current();
    if (!th || th->skip)
        return monitor_none;
    g.line_events++;
    if (unlikely(th->force != g.force))
        follow(th, g.force);
    if (th->nshadow && frame_current(py_tstate()) == th->top_frame) {
        const struct call *c = &th->shadow[th->nshadow - 1];

        if (c->kind == CALL_RECORD)
            line_record(th, c->code, (uint32_t)py_long(args[1]), c->depth);
        return monitor_none;
    }
    return lines_far(args[0]) ? monitor_disable : monitor_none;
}

const struct monitor_row monitor_rows[MONITOR_ROWS] = {
    { "PY_START", { "mempulse_start", on_start, METH_FASTCALL, NULL } },
    { "PY_RESUME", { "mempulse_resume", on_resume, METH_FASTCALL, NULL } },
    { "PY_THROW", { "mempulse_throw", on_throw, METH_FASTCALL, NULL } },
    { "PY_RETURN", { "mempulse_return", on_return, METH_FASTCALL, NULL } },
    { "PY_YIELD", { "mempulse_yield", on_yield, METH_FASTCALL, NULL } },
    { "PY_UNWIND", { "mempulse_unwind", on_unwind, METH_FASTCALL, NULL } },
    [MONITOR_LINE] = { "LINE", { "mempulse_line", on_line, METH_FASTCALL, NULL } },
};
