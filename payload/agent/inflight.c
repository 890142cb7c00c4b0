/* Calls that are inside a thunk in a forked child. The count in the thunk is of all
 * threads of the process that was forked; the child has one of them, its main thread,
 * and no call entered since (the hook is inert). Its frames will return through the
 * thunk: their return addresses stand on its stack, each with a struct call above that
 * names the interpreter's frame. While we hold the GIL the thread waits for it, or is in
 * a system call of its own, so that the kernel tells where its stack ends.
 *
 *   high  | struct call    |  thunk.S; one word of it: the interpreter's frame
 *         +----------------+
 *         | return address |  of `call *orig`
 *   low   +----------------+
 *
 * Parts of a stack that a live frame has not written to hold such pairs as well, of
 * calls that have returned. Their frames are not among those that run. */
#include "agent/maps.h"
#include "agent/python.h"

#define LOOKS 20      /* 2 ms apart, for the thread to stand still */
#define CHUNK 4096
#define STACK_MAX (1ull << 30)
#define CALLS_MAX 1024
#define FRAMES_MAX (1 << 20)
#define CALL_INSN 6 /* bytes of `call *orig(%rip)`: ff 15 and a displacement */

static uint64_t chunk[CHUNK / 8];
static uint64_t frames[CALLS_MAX]; /* of what looks like a call */
static unsigned nframes;

/* The stack pointer of the child's main thread, 0 when it can't be told.
 * /proc/PID/task/TID/syscall: "running", or numbers of which the last but one is it. */
static uint64_t main_sp(void)
{
    char path[64], line[256];
    struct text t = text_on(path, sizeof(path));
    const char *word[2] = { NULL, NULL }, *end;
    int fd;
    long n;

    text_str(&t, "/proc/self/task/");
    text_num(&t, g.pid);
    text_str(&t, "/syscall");
    fd = sys_open_read(path);
    n = fd >= 0 ? sys_read(fd, line, sizeof(line)) : -1;
    sys_close(fd);
    end = line + (n > 0 ? n : 0);
    for (const char *p = line; p + 2 < end; p++)
        if (p[0] == ' ' && p[1] == '0' && p[2] == 'x') {
            word[0] = word[1];
            word[1] = p + 3;
        }
    return word[0] ? parse_hex(&word[0], end) : 0;
}

struct stack {
    uint64_t sp, hi;
};

static bool holds_sp(const struct maps_line *l, void *arg)
{
    struct stack *s = arg;

    s->hi = l->hi;
    return s->sp >= l->lo && s->sp < l->hi;
}

/* Whether `word` is where a call of `orig` returns to. */
static bool returns_into(const struct thunk *t, uint64_t word)
{
    uint64_t data = (uint64_t)(uintptr_t)t, code = data - THUNK_PAGE;
    const unsigned char *insn;
    int32_t off;

    if (word < code + CALL_INSN || word >= data)
        return false;
    insn = (const unsigned char *)(uintptr_t)word - CALL_INSN;
    memcpy(&off, insn + 2, 4);
    return insn[0] == 0xff && insn[1] == 0x15 && word + (uint64_t)(int64_t)off == data + THUNK_ORIG;
}

/* Notes the frame of the call whose return address stands at `at`. */
static bool note_frame(const struct thunk *t, uint64_t at)
{
    uint64_t frame;

    if (nframes == CALLS_MAX ||
        sys_read_self(g.pid, &frame, (void *)(uintptr_t)(at + 8 + t->frame_offset), 8) != 8)
        return false;
    for (unsigned i = 0; i < nframes; i++)
        if (frames[i] == frame)
            return true;
    frames[nframes++] = frame;
    return true;
}

static bool collect(const struct thunk *t, const struct stack *s)
{
    nframes = 0;
    for (uint64_t at = s->sp; at < s->hi; at += CHUNK) {
        size_t len = s->hi - at < CHUNK ? (size_t)(s->hi - at) : CHUNK;

        if (sys_read_self(g.pid, chunk, (void *)(uintptr_t)at, len) != (long)len)
            return false;
        for (size_t i = 0; i < len / 8; i++)
            if (returns_into(t, chunk[i]) && !note_frame(t, at + 8 * i))
                return false;
    }
    return true;
}

/* How many of the frames noted are among those that a thread state runs; -1: too many. */
static int running(const void *tstate)
{
    int calls = 0, n = 0;

    for (const void *f = frame_current(tstate); f; f = frame_back(f)) {
        if (++n > FRAMES_MAX)
            return -1;
        for (unsigned i = 0; i < nframes; i++)
            calls += frames[i] == (uint64_t)(uintptr_t)f;
    }
    return calls;
}

int thunk_calls_here(const struct thunk *t)
{
    struct stack s = { 0, 0 };
    int calls = 0, n;

    if (py_module("greenlet") || py_module("greenlet._greenlet"))
        return -1; /* stacks are kept elsewhere as well */
    for (int i = 0; i < LOOKS && !(s.sp = main_sp()); i++)
        sys_poll(NULL, 0, 2);
    s.sp &= ~7ull;
    if (!s.sp || !maps_each(holds_sp, &s) || s.hi - s.sp > STACK_MAX || !collect(t, &s))
        return -1;
    for (void *ts = PY(PyInterpreterState_ThreadHead, void *(*)(void *))(g.interp); ts;
         ts = PY(PyThreadState_Next, void *(*)(void *))(ts)) {
        if ((n = running(ts)) < 0)
            return -1;
        calls += n;
    }
    return calls;
}
