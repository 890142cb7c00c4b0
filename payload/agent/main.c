/* The agent thread: from mp_agent_main to the last byte sent.
 *
 *   check, prepare ─ HELLO ─ wait for GO ─ SELFTEST ─ GIL: install ─ HOOKED
 *     ─ loop: drain, obey, heartbeat ─ inert ─ GIL: uninstall ─ drain ─ BYE ─ free all
 *
 * Holds no lock, ever; takes the GIL three ways (install, uninstall, names), each
 * time knowing that PyGILState_Ensure ends the calling thread if the interpreter
 * finalizes meanwhile: whatever must be true then is true before the call. */
#include "agent/governor.h"
#include "agent/python.h"

#define ROUND_MS 20       /* poll timeout while records flow */
#define IDLE_MS 80        /* and while none do */
#define IDLE_AFTER 25     /* empty rounds until then */
#define STATS_NS 1000000000ull
#define NAMES_NS 1000000000ull
#define INFLIGHT_WAIT_MS 600
#define DRAIN_MAX_NS 4000000000ull
#define MEMORY_TRIES 10   /* about a second in all */
#define SEND_WAIT_MS 700  /* for a launcher that reads slowly */

static uint32_t bye_reason;

/* ---- preparation ----------------------------------------------------------------- */

static void control_init(const struct mp_boot *b)
{
    struct mp_control *c = &mp_control_block;

    memset(c, 0, sizeof(*c));
    c->abi = MP_ABI;
    c->size = sizeof(*c);
    c->region_base = b->region_base;
    c->region_len = b->region_len;
    c->pid = g.pid;
    c->agent_tid = g.agent_tid;
    c->launcher_pid = b->launcher_pid;
    c->state = MP_STATE_NEW;
    c->heartbeat_ns = clock_ns(CLOCK_MONOTONIC);
    store_release(&c->magic, MP_CONTROL_MAGIC);
}

/* The armed word, alone in a page that every fork wipes: a child's hooks see 0. */
static int armed_init(void)
{
    long p = sys_mmap(MP_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE);

    if (p < 0 && p > -4096)
        return (int)p;
    if (sys_madvise((void *)p, MP_PAGE, MADV_WIPEONFORK) == 0) /* 4.14 */
        g.boot->armed = (uint64_t)p;
    mem_name((void *)p, MP_PAGE, MP_ANON_NAME);
    g.armed = (volatile uint32_t *)p;
    g.armed[1] = MP_ARMED_MARK;
    return 0;
}

/* One pipe under one number, open both ways. Not an eventfd, which has no identity
 * (held.c): all of them share one inode. */
static int wake_open(void)
{
    char path[40];
    struct text t = text_on(path, sizeof(path));
    int ends[2], fd;

    if (sys3(__NR_pipe2, (long)ends, O_CLOEXEC | O_NONBLOCK, 0) < 0)
        return -1;
    text_str(&t, "/proc/self/fd/");
    text_num(&t, ends[0]);
    fd = (int)sys4(__NR_openat, AT_FDCWD, (long)path, O_RDWR | O_CLOEXEC | O_NONBLOCK, 0);
    sys_close(ends[0]);
    sys_close(ends[1]);
    return fd;
}

static int init(struct mp_boot *b)
{
    const struct layout *l;

    memset(&g, 0, sizeof(g));
    g.boot = b;
    g.sym = b->py_sym;
    g.tid_offset = b->tid_offset;
    g.agent_tid = sys_gettid();
    g.pid = sys_getpid();
    g.minor = b->py_version >> 16 & 0xff;
    g.wake_fd = -1;
    control_init(b);
    if (armed_init() < 0)
        return fail_set(MP_FAIL_MEMORY, SYS_ENOMEM, "no memory", NULL);
    b->agent_fd = held_take(MP_HELD_IN, b->agent_fd);
    if (b->channel == MP_CHANNEL_PIPES)
        b->agent_out = held_take(MP_HELD_OUT, b->agent_out);
    wire_init(b->agent_fd, b->channel == MP_CHANNEL_PIPES ? b->agent_out : b->agent_fd);
    l = layout_find(g.minor);
    if (!l || b->py_version >> 24 != 3)
        return fail_set(MP_FAIL_LAYOUT, 0, "this version of Python is not known", NULL);
    g.layout = *l;
    g.hook = g.minor >= 12 ? MP_HOOK_MONITORING : MP_HOOK_THUNK;
    if (tid_now() != g.agent_tid)
        return fail_set(MP_FAIL_LAYOUT, 0, "struct pthread's tid is not where it should be", NULL);
    g.wake_fd = held_take(MP_HELD_WAKE, wake_open());
    return 0;
}

/* ---- messages ---------------------------------------------------------------------- */

static void send_hello(void)
{
    struct mp_hello h = { MP_ABI, g.pid, g.agent_tid, g.boot->py_version };

    wire_frame(MP_MSG_HELLO, 1, &h, sizeof(h), NULL, 0);
    wire_flush(SEND_WAIT_MS);
}

static void update_control(void)
{
    struct mp_control *c = &mp_control_block;
    uint64_t lost = g.lost_threads + g.lost_depth;
    uint32_t n = load_acquire(&g.nthread);

    for (uint32_t i = 0; i < n; i++)
        lost += g.thread[i]->lost;
    py_interval_back(); /* a launcher may have come just after the wait was over, and have died */
    c->heartbeat_ns = clock_ns(CLOCK_MONOTONIC);
    c->records = g.records;
    c->lost = lost;
    c->hook_ns = governor_hook_ns();
}

static void send_stats(void)
{
    int64_t rss = meter_rss();
    struct mp_stats s = {
        .time_ns = clock_ns(CLOCK_MONOTONIC),
        .records = g.records,
        .lost = mp_control_block.lost,
        .filtered = g.filtered,
        .events = governor_events(),
        .hook_ns = governor_hook_ns(),
        .rollup_ns = g.rollup_ns,
        .rss_bytes = rss < 0 ? 0 : (uint64_t)rss * MP_PAGE,
        .uss_bytes = g.last_uss,
        .peak_bytes = g.last_peak,
        .threads = g.next_thread_id,
        .codes = g.ncode,
        .account = governor_account(),
    };

    wire_frame(MP_MSG_STATS, 1, &s, sizeof(s), NULL, 0);
}

static void send_bye(void)
{
    struct mp_bye b = {
        .reason = bye_reason,
        .residue = mp_control_block.residue,
        .records = g.records,
        .lost = mp_control_block.lost,
        .hook_ns = mp_control_block.hook_ns,
        .inflight = hook_inflight(),
        .slots = g.slots_after,
        .account = governor_account(),
    };

    if (g.fail.code)
        wire_frame(MP_MSG_FAILED, 1, &g.fail, sizeof(g.fail), NULL, 0);
    wire_frame(MP_MSG_BYE, 1, &b, sizeof(b), NULL, 0);
    wire_flush(SEND_WAIT_MS);
}

/* Patterns come as bytes from outside: counts bounded, each glob ended. */
static void take_options(const void *payload, size_t len)
{
    struct mp_patterns *kinds[] = { &g.opt.root, &g.opt.function, &g.opt.module, &g.opt.exclude };

    memcpy(&g.opt, payload, len < sizeof(g.opt) ? len : sizeof(g.opt));
    for (size_t k = 0; k < 4; k++) {
        if (kinds[k]->count > MP_PATTERNS_MAX)
            kinds[k]->count = MP_PATTERNS_MAX;
        for (uint32_t i = 0; i < MP_PATTERNS_MAX; i++)
            kinds[k]->glob[i][MP_PATTERN_MAX - 1] = 0;
    }
    if (g.opt.depth < 1 || g.opt.depth > MP_DEPTH_MAX)
        g.opt.depth = g.opt.depth ? MP_DEPTH_MAX : MP_DEPTH_DEFAULT;
    g.roots = g.opt.root.count > 0;
    g.lines = g.opt.flags & MP_OPT_LINES;
    governor_init();
    mp_control_block.options = g.opt;
}

/* 0 when GO came; -1 when the launcher is gone, asks to leave, or says nothing. */
static int wait_go(void)
{
    uint64_t end = clock_ns(CLOCK_MONOTONIC) + MP_GO_WAIT_MS * 1000000ull;
    const void *payload;
    unsigned type;
    size_t len;

    for (;;) {
        int r = wire_receive(&type, &payload, &len);

        if (r < 0)
            return -1;
        if (r > 0 && type == MP_MSG_GO && len == sizeof(struct mp_options)) {
            take_options(payload, len);
            return 0;
        }
        if (r > 0 && type == MP_MSG_DETACH)
            return -1;
        if (r > 0)
            continue;
        if (clock_ns(CLOCK_MONOTONIC) >= end || mp_control_block.detach_request)
            return -1;
        mp_control_block.heartbeat_ns = clock_ns(CLOCK_MONOTONIC);
        wire_wait(50);
    }
}

/* ---- the GIL ------------------------------------------------------------------------- */

/* Memory that hooks will need, while its page faults are still nobody's. */
static int prepare_hooks(void)
{
    struct mp_selftest t;
    int err;

    mem_touch_image();
    err = meter_init();
    if (err < 0)
        return fail_set(MP_FAIL_PROC, -err, "/proc/self/statm can't be opened", NULL);
    if (codes_init() || threads_init())
        return fail_set(MP_FAIL_MEMORY, SYS_ENOMEM, "no memory", NULL);
    meter_selftest(&t);
    wire_frame(MP_MSG_SELFTEST, 1, &t, sizeof(t), NULL, 0);
    wire_flush(SEND_WAIT_MS);
    return 0;
}

/* Why to leave now: an enum mp_bye_reason, or 0. */
static uint32_t leave_reason(void)
{
    const void *payload;
    unsigned type;
    size_t len;
    int r;

    if (!held_all())
        return MP_BYE_CUT;
    while ((r = wire_receive(&type, &payload, &len)) > 0)
        if (type == MP_MSG_DETACH)
            return MP_BYE_DETACH;
    if (r < 0 || wire_closed())
        return MP_BYE_LEASE;
    if (mp_control_block.detach_request)
        return MP_BYE_REQUEST;
    return py_finalizing() ? MP_BYE_FINALIZE : 0;
}

static bool leaving(void)
{
    return leave_reason() != 0;
}

static int no_gil(void)
{
    if (py_finalizing())
        return fail_set(MP_FAIL_FINALIZING, 0, "the interpreter is shutting down", NULL);
    if (mp_control_block.standstill != MP_STANDSTILL_NOT)
        return fail_set(MP_FAIL_GIL, 0, "the launcher left while a GIL was made", NULL);
    return fail_set(MP_FAIL_NO_GIL, 0, py_gil_refused(), NULL);
}

/* py_try has returned without. */
static int no_state(void)
{
    if (py_finalizing())
        return fail_set(MP_FAIL_FINALIZING, 0, "the interpreter is shutting down", NULL);
    return fail_set(MP_FAIL_MEMORY, SYS_ENOMEM, "PyThreadState_New", NULL);
}

static int install(void)
{
    int state, err;

    mp_control_block.state = MP_STATE_HOOKING;
    if (!py_initialized() || py_finalizing())
        return fail_set(MP_FAIL_FINALIZING, 0, "the interpreter is shutting down", NULL);
    if (!py_gil_needed(leaving))
        return no_gil();
    if (!py_try(MEMORY_TRIES, &state))
        return no_state();
    /* The wait may have been long: is anybody still interested? */
    wire_wait(0);
    if (!held_all()) {
        py_release(state);
        return fail_set(MP_FAIL_CUT, 0, "the target closed the session's descriptors", NULL);
    }
    if (wire_closed() || mp_control_block.detach_request) {
        py_release(state);
        return fail_set(MP_FAIL_GIL, 0, "the launcher left while the agent waited for the GIL", NULL);
    }
    err = hook_install();
    if (!err)
        threads_names();
    py_release(state);
    if (err)
        return err;
    mp_control_block.slots_before = g.slots_before;
    mp_control_block.start_realtime_ns = clock_ns(CLOCK_REALTIME);
    mp_control_block.state = MP_STATE_HOOKED;
    g.slots_before.hook = g.hook;
    wire_frame(MP_MSG_HOOKED, 1, &g.slots_before, sizeof(g.slots_before), NULL, 0);
    if (g.chained)
        wire_note(MP_NOTE_CHAINED, "another eval-frame function is set; it is called after ours");
    wire_flush(SEND_WAIT_MS);
    return 0;
}

/* False when the interpreter finalizes: Python is then not touched any more, and
 * what the interpreter can reach of ours must stay. */
static bool uninstall(void)
{
    int state;

    hook_inert();
    mp_control_block.state = MP_STATE_UNHOOKING;
    do
        if (py_finalizing())
            return false;
    while (!py_try(MEMORY_TRIES, &state)); /* memory is waited for as long as there is an interpreter */
    threads_names(); /* for those that came and stayed less than a second */
    hook_uninstall();
    py_release(state);
    return true;
}

/* Calls that were in the thunk at the unhook mostly return soon: a thread that
 * waited for the GIL inside one. Waits for them, a bounded time, to leave nothing. */
static void outwait_inflight(void)
{
    uint64_t end = clock_ns(CLOCK_MONOTONIC) + INFLIGHT_WAIT_MS * 1000000ull;
    int state;

    if (!(mp_control_block.residue & MP_RESIDUE_THUNK))
        return;
    while (hook_inflight() && clock_ns(CLOCK_MONOTONIC) < end && !py_finalizing())
        sys_poll(NULL, 0, 2);
    if (hook_inflight() || py_finalizing())
        return;
    if (!py_try(MEMORY_TRIES, &state))
        return;
    thunk_uninstall();
    py_release(state);
}

static bool read_names(void)
{
    int state;

    if (py_finalizing() || !py_try(1, &state))
        return false;
    threads_names();
    py_release(state);
    return true;
}

/* ---- the loop -------------------------------------------------------------------------- */

/* Sleeps until the socket has news, a ring is half full, or the time is up. The
 * order (flag, then a look at the rings by the caller's next drain) allows a wake
 * to be missed by at most one timeout. */
static void rest(unsigned *idle, uint64_t records_before)
{
    *idle = g.records == records_before ? *idle + 1 : 0;
    __atomic_store_n(&g.sleeping, 1, __ATOMIC_SEQ_CST);
    wire_wait(*idle > IDLE_AFTER ? IDLE_MS : ROUND_MS);
    g.sleeping = 0;
}

/* New threads get the kernel's name first; a better one once a second. */
static void once_a_second(uint64_t now, uint64_t *next_stats, uint32_t *named)
{
    if (now < *next_stats)
        return;
    *next_stats = now + STATS_NS;
    threads_reap();
    if (*named != g.next_thread_id) {
        uint32_t now_there = g.next_thread_id;

        if (read_names())
            *named = now_there;
    }
    if (lines_busy_news())
        wire_note(MP_NOTE_LINES_BUSY, "a thread has another tool's trace function: its lines are not traced");
    if (rollup_news())
        wire_note(MP_NOTE_ROLLUP, "a reading of smaps_rollup holds the target for over 5 ms by now: USS and swap are not measured any more");
    update_control();
    send_stats();
}

static uint32_t loop(void)
{
    uint64_t next_stats = clock_ns(CLOCK_MONOTONIC) + STATS_NS / 4, records = 0;
    uint32_t reason, named = 0;
    unsigned idle = 0;

    governor_start(clock_ns(CLOCK_MONOTONIC));
    for (;;) {
        records = g.records;
        drain();
        update_control();
        hook_round(mp_control_block.heartbeat_ns);
        governor_tick(mp_control_block.heartbeat_ns);
        once_a_second(mp_control_block.heartbeat_ns, &next_stats, &named);
        reason = leave_reason();
        if (reason)
            return reason;
        rest(&idle, records);
    }
}

/* What rings still hold, within a bounded time. */
static void drain_rest(void)
{
    uint64_t start = clock_ns(CLOCK_MONOTONIC), end = start + SEND_WAIT_MS * 1000000ull, sent;

    while (!drain() && !wire_closed() && clock_ns(CLOCK_MONOTONIC) < end) {
        sent = wire_sent();
        wire_flush(20);
        mp_control_block.heartbeat_ns = clock_ns(CLOCK_MONOTONIC);
        if (wire_sent() != sent) /* a launcher that reads gets all, if it does not take for ever */
            end = mp_control_block.heartbeat_ns + SEND_WAIT_MS * 1000000ull;
        end = end < start + DRAIN_MAX_NS ? end : start + DRAIN_MAX_NS;
    }
    drain_give_up();
    update_control();
    send_stats();
}

/* ---- leaving ------------------------------------------------------------------------------ */

/* Somebody asked through the control block, or the launcher can't be told any more why
 * we leave: let them read the account. */
static void wait_ack(void)
{
    uint64_t end = clock_ns(CLOCK_MONOTONIC) + MP_ACK_WAIT_MS * 1000000ull;

    while ((mp_control_block.detach_request || (mp_control_block.cut && wire_closed())) &&
           !mp_control_block.detach_ack && clock_ns(CLOCK_MONOTONIC) < end) {
        mp_control_block.heartbeat_ns = clock_ns(CLOCK_MONOTONIC);
        sys_poll(NULL, 0, 5);
    }
}

static int leave(bool python_done)
{
    /* A cure has no object of its own: what is held is another agent's. */
    int stays = !python_done || (mp_control_block.residue & MP_RESIDUE_HELD && !(g.opt.flags & MP_OPT_CURE));

    py_interval_back();
    mp_control_block.slots_after = g.slots_after;
    if (!mp_control_block.residue && python_done)
        mp_control_block.state = MP_STATE_GONE;
    else
        mp_control_block.state = MP_STATE_RESIDUE;
    send_bye();
    wait_ack();
    g.boot->agent_fd = held_drop(MP_HELD_IN, g.boot->agent_fd);
    if (g.boot->channel == MP_CHANNEL_PIPES)
        held_drop(MP_HELD_OUT, g.boot->agent_out);
    g.boot->agent_out = -1;
    g.wake_fd = held_drop(MP_HELD_WAKE, g.wake_fd);
    if (stays)
        return 1; /* hooks may be inside: fds and memory that they use stay with us */
    meter_release();
    mem_release();
    g.boot->armed = 0;
    sys_munmap((void *)g.armed, MP_PAGE);
    return 0;
}

static int cure(void)
{
    int state;

    copies_find();
    copies_close();
    if (!py_initialized() || py_finalizing()) {
        fail_set(MP_FAIL_FINALIZING, 0, "the interpreter is shutting down", NULL);
        bye_reason = MP_BYE_FAILED;
        return leave(true);
    }
    if (!py_gil_needed(leaving)) {
        no_gil();
        bye_reason = MP_BYE_FAILED;
        return leave(true);
    }
    if (py_try(MEMORY_TRIES, &state)) {
        copies_forget(hook_cure());
        py_release(state);
        copies_release();
    } else {
        no_state();
    }
    bye_reason = g.fail.code ? MP_BYE_FAILED : MP_BYE_CURED;
    return leave(true);
}

int mp_agent_main(struct mp_boot *boot)
{
    bool python_done;

    if (boot->magic != MP_BOOT_MAGIC || boot->abi != MP_ABI)
        return 0;
    bye_reason = MP_BYE_FAILED;
    boot->phase = MP_PHASE_AGENT;
    if (init(boot))
        return leave(true);
    send_hello();
    if (wait_go())
        return leave(true);
    if (g.opt.flags & MP_OPT_CURE)
        return cure();
    if (prepare_hooks() || install())
        return leave(true);
    bye_reason = loop();
    governor_stop(clock_ns(CLOCK_MONOTONIC));
    python_done = uninstall();
    if (!python_done)
        bye_reason = MP_BYE_FINALIZE;
    drain_rest();
    if (python_done)
        outwait_inflight();
    return leave(python_done);
}
