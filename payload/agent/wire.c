/* The channel, a socket or two pipes, from the agent's side: frames gathered in a buffer and sent
 * without ever blocking or signalling; and the way from rings to frames.
 * Only the agent thread comes here. When the launcher does not read, the buffer
 * stays full, rings fill up, and hooks count what is lost. */
#include "agent/agent.h"

#define OUT_SIZE (256u << 10)
#define IN_SIZE (16u << 10)
#define RECORDS_MAX 1024u /* of one frame */
#define FLUSH_MAX_NS 4000000000ull /* for a launcher that reads, if slowly */
#define RESERVE 2048u     /* room that records and codes leave for LOST, STATS and BYE */

_Static_assert(sizeof(struct mp_frame) + sizeof(struct mp_options) <= IN_SIZE, "GO fits");
_Static_assert(RECORDS_MAX * sizeof(struct mp_record) + 8 <= MP_FRAME_MAX, "RECORDS fits");

static int rx = -1, tx = -1; /* the same when it is a socket */
static bool gone;
static char *out;
static size_t out_from, out_to; /* [from, to) of `out` is not sent yet */
static uint64_t sent; /* bytes */
static char in[IN_SIZE];
static size_t in_len, in_used;
static struct code *code_cursor; /* last code that was sent */
static uint64_t lost_threads_sent, lost_depth_sent;

void wire_init(int in_fd, int out_fd)
{
    rx = in_fd;
    tx = out_fd;
    gone = false;
    out_from = out_to = in_len = in_used = 0;
    code_cursor = NULL;
    lost_threads_sent = lost_depth_sent = sent = 0;
    out = mem_map(OUT_SIZE - MEM_HEADER, true);
}

bool wire_closed(void)
{
    return gone;
}

/* Into a pipe that nobody reads: -EPIPE and a SIGPIPE, which stays pending on this
 * thread, where it is blocked, and ends with it. */
static long channel_write(const char *p, size_t len)
{
    return rx == tx ? sys_send(tx, p, len) : sys_write(tx, p, len);
}

static long channel_read(char *p, size_t len)
{
    return rx == tx ? sys_recv(rx, p, len) : sys_read(rx, p, len);
}

static void send_some(void)
{
    while (out_from < out_to && !gone) {
        long n;

        if (!held_ours(rx == tx ? MP_HELD_IN : MP_HELD_OUT)) {
            gone = true;
            break;
        }
        n = channel_write(out + out_from, out_to - out_from);
        if (n == -SYS_EINTR)
            continue;
        if (n == -SYS_EAGAIN)
            return;
        if (n <= 0)
            gone = true;
        else
            out_from += (size_t)n;
        sent += n > 0 ? (uint64_t)n : 0;
    }
    if (out_from == out_to)
        out_from = out_to = 0;
}

bool wire_room(size_t len)
{
    if (gone || !out)
        return false;
    if (OUT_SIZE - MEM_HEADER - out_to >= len)
        return true;
    send_some();
    if (out_from) {
        memmove(out, out + out_from, out_to - out_from);
        out_to -= out_from;
        out_from = 0;
    }
    return OUT_SIZE - MEM_HEADER - out_to >= len;
}

int wire_frame(unsigned type, unsigned count, const void *a, size_t alen, const void *b, size_t blen)
{
    struct mp_frame f = { (uint32_t)(sizeof(f) + alen + blen), (uint16_t)type, (uint16_t)count };

    if (!wire_room(f.len + (type == MP_MSG_RECORDS || type == MP_MSG_CODE || type == MP_MSG_THREAD ? RESERVE : 0)))
        return 0;
    memcpy(out + out_to, &f, sizeof(f));
    memcpy(out + out_to + sizeof(f), a, alen);
    memcpy(out + out_to + sizeof(f) + alen, b, blen);
    out_to += f.len;
    return 1;
}

uint64_t wire_sent(void)
{
    return sent;
}

int wire_flush(unsigned wait_ms)
{
    uint64_t start = clock_ns(CLOCK_MONOTONIC), end = start + wait_ms * 1000000ull, before = sent;

    for (;;) {
        struct sys_pollfd p = { tx, POLLOUT, 0 };

        send_some();
        if (sent != before) { /* it takes what it gets, if slowly */
            before = sent;
            end = clock_ns(CLOCK_MONOTONIC) + wait_ms * 1000000ull;
            end = end < start + FLUSH_MAX_NS ? end : start + FLUSH_MAX_NS;
        }
        if (gone)
            return -1;
        if (out_from == out_to)
            return 1;
        if (clock_ns(CLOCK_MONOTONIC) >= end)
            return 0;
        sys_poll(&p, 1, 10);
    }
}

int wire_wait(unsigned timeout_ms)
{
    struct sys_pollfd p[3] = { { rx, POLLIN, 0 }, { g.wake_fd, POLLIN, 0 }, { rx == tx ? -1 : tx, 0, 0 } };
    uint64_t count;
    long n;

    if (gone)
        p[0].fd = p[2].fd = -1;
    if (out_from < out_to)
        p[rx == tx ? 0 : 2].events |= POLLOUT;
    n = sys_poll(p, 3, (int)timeout_ms); /* a negative descriptor is passed over */
    if (n > 0 && p[1].revents & POLLIN && held_ours(MP_HELD_WAKE))
        sys_read(g.wake_fd, &count, sizeof(count));
    /* A half-closed or dead peer: what it sent before is still read first. */
    if (n > 0 && (p[0].revents | p[2].revents) & (POLLHUP | POLLERR) && !(p[0].revents & POLLIN))
        gone = true;
    return n > 0;
}

/* A frame that is whole in `in`; the one handed out before is dropped first. */
int wire_receive(unsigned *ret_type, const void **ret_payload, size_t *ret_len)
{
    struct mp_frame f;
    long n;

    if (in_used) {
        memmove(in, in + in_used, in_len - in_used);
        in_len -= in_used;
        in_used = 0;
    }
    if (!gone && !held_ours(MP_HELD_IN)) {
        gone = rx == tx; /* of two pipes the other one may still take BYE */
        return -1;
    }
    n = gone ? 0 : channel_read(in + in_len, IN_SIZE - in_len);
    if (n > 0)
        in_len += (size_t)n;
    else if (n == 0 && IN_SIZE > in_len)
        gone = true;
    else if (n < 0 && n != -SYS_EAGAIN && n != -SYS_EINTR)
        gone = true;
    if (in_len < sizeof(f))
        return gone ? -1 : 0;
    memcpy(&f, in, sizeof(f));
    if (f.len < sizeof(f) || f.len > IN_SIZE) {
        gone = true; /* not a launcher of this version */
        return -1;
    }
    if (in_len < f.len)
        return gone ? -1 : 0;
    *ret_type = f.type;
    *ret_payload = in + sizeof(f);
    *ret_len = f.len - sizeof(f);
    in_used = f.len;
    return 1;
}

void wire_note(unsigned code, const char *text)
{
    struct mp_note n = { .code = code, .text_len = (uint16_t)strlen(text) };

    wire_frame(MP_MSG_NOTE, 1, &n, sizeof(n), text, n.text_len);
}

static bool send_codes(void)
{
    for (;;) {
        struct code *c = code_cursor ? load_acquire(&code_cursor->next) : load_acquire(&g.codes_head);

        if (!c)
            return true;
        if (!wire_frame(MP_MSG_CODE, 1, &c->wire, sizeof(c->wire), c->text, c->text_len))
            return false;
        code_cursor = c;
    }
}

/* What the kernel calls a thread: /proc/self/task/TID/comm. */
static size_t comm_name(int32_t tid, char *to, size_t max)
{
    char path[64];
    struct text t = text_on(path, sizeof(path));
    int fd;
    long n;

    text_str(&t, "/proc/self/task/");
    text_num(&t, tid);
    text_str(&t, "/comm");
    fd = sys_open_read(path);
    if (fd < 0)
        return 0;
    n = sys_read(fd, to, max);
    sys_close(fd);
    while (n > 0 && to[n - 1] == '\n')
        n--;
    return n > 0 ? (size_t)n : 0;
}

static bool send_thread(struct thread *th)
{
    struct mp_thread t = { .id = th->id, .tid = th->tid };
    char comm[32];

    if (th->tid == g.pid)
        t.flags |= MP_THREAD_MAIN;
    if (th->renamed) {
        if (th->announced_id == th->id)
            t.flags |= MP_THREAD_RENAMED;
        t.name_len = th->name_len;
        if (!wire_frame(MP_MSG_THREAD, 1, &t, sizeof(t), th->name, t.name_len))
            return false;
        th->named_id = th->id;
    } else {
        t.name_len = (uint16_t)comm_name(th->tid, comm, sizeof(comm));
        if (!wire_frame(MP_MSG_THREAD, 1, &t, sizeof(t), comm, t.name_len))
            return false;
    }
    th->announced_id = t.id;
    return true;
}

static bool send_lost(uint64_t now, uint64_t *told, uint32_t thread_id, uint32_t reason)
{
    struct mp_lost l = { .count = now - *told, .thread_id = thread_id, .reason = reason };

    if (!l.count)
        return true;
    if (!wire_frame(MP_MSG_LOST, 1, &l, sizeof(l), NULL, 0))
        return false;
    *told = now;
    return true;
}

static bool send_records(struct thread *th, uint64_t head)
{
    while (th->tail != head) {
        uint32_t at = (uint32_t)((th->tail - th->origin) % MP_RING_RECORDS);
        uint64_t n = head - th->tail;

        if (n > RECORDS_MAX)
            n = RECORDS_MAX;
        if (n > MP_RING_RECORDS - at)
            n = MP_RING_RECORDS - at;
        if (!wire_frame(MP_MSG_RECORDS, (unsigned)n, &th->ring[at], n * sizeof(struct mp_record), NULL, 0))
            return false;
        store_release(&th->tail, th->tail + n);
    }
    return true;
}

/* Order: head is read first, then the codes: a record below head names no code
 * that was published after it was. */
static bool drain_thread(struct thread *th)
{
    uint64_t head = load_acquire(&th->head);

    if (load_acquire(&th->state) == THREAD_EMPTY || load_acquire(&th->state) == THREAD_FREE)
        return true;
    if (th->announced_id != th->id || (th->renamed && th->named_id != th->id))
        if (!send_thread(th))
            return false;
    if (th->tail != head && !send_codes())
        return false;
    return send_records(th, head) && send_lost(th->lost, &th->lost_sent, th->id, MP_LOST_RING);
}

/* What could not be sent in time is lost, and said to be. */
void drain_give_up(void)
{
    for (uint32_t i = 0; i < g.nthread; i++) {
        struct thread *th = g.thread[i];
        uint64_t left = th->head - th->tail;

        th->tail = th->head;
        th->lost += left;
        g.records -= left;
        if (th->announced_id == th->id)
            send_lost(th->lost, &th->lost_sent, th->id, MP_LOST_RING);
    }
}

bool drain(void)
{
    static uint32_t first; /* where the last round broke off: each thread has its turn */
    uint32_t n = load_acquire(&g.nthread);
    bool all = true;

    for (uint32_t i = 0; all && i < n; i++)
        if (!drain_thread(g.thread[(first + i) % n])) {
            first = (first + i) % n;
            all = false;
        }
    all = all && send_lost(g.lost_threads, &lost_threads_sent, 0, MP_LOST_THREADS) &&
          send_lost(g.lost_depth, &lost_depth_sent, 0, MP_LOST_DEPTH);
    send_some();
    return all;
}
