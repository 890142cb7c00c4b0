/* Decoder of the wire (see stream.h).
 *
 *   buf: | consumed |  frame  | frame | part of a frame |   free   |
 *        0          pos                                 end        MP_FRAME_MAX
 *
 * Invariants: pos <= end <= MP_FRAME_MAX; bytes before pos are dead. Every byte
 * is foreign: a length is checked before it is used, a struct is copied out
 * before it is looked at. */
#include "stream/stream.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/fault.h"
#include "boot.h"

#define PIPE_WAIT_MS 5000 /* for the agent to read on */

_Static_assert(sizeof(struct mp_frame) == 8, "frame header");

enum stream_state {
    STREAM_START,  /* nothing but HELLO may come */
    STREAM_HELLO,  /* not hooked yet */
    STREAM_HOOKED,
    STREAM_FAILED, /* the agent will not hook: BYE is what may come */
    STREAM_BYE,    /* nothing may come */
    STREAM_STATES
};

struct stream {
    size_t pos, end;
    enum stream_state state;
    bool dead;
    bool have_selftest;
    _Alignas(16) unsigned char buf[MP_FRAME_MAX];
};

/* What may come in which state. STREAM_STATES: in none. */
struct stream_row {
    enum mp_msg type;
    unsigned states;       /* bit per enum stream_state */
    size_t size;           /* of the fixed part */
    enum stream_state next; /* STREAM_STATES: stays */
    int (*decode)(const struct stream_row *row, const unsigned char *p, size_t len, unsigned count,
                  struct stream_event *ret);
};

#define IN(state) (1u << (state))

struct stream *stream_new(void)
{
    return calloc(1, sizeof(struct stream));
}

void stream_free(struct stream *s)
{
    free(s);
}

/* Moves what is not consumed to the front; returns the room behind it. */
static size_t stream_compact(struct stream *s)
{
    if (s->pos) {
        memmove(s->buf, s->buf + s->pos, s->end - s->pos);
        s->end -= s->pos;
        s->pos = 0;
    }
    return sizeof(s->buf) - s->end;
}

int stream_fill(struct stream *s, int fd)
{
    size_t room = stream_compact(s);
    ssize_t n;

    if (room == 0)
        return -ENOBUFS;
    /* A socket's flags are the peer's to change too, and it may have a copy of our end: no
     * wait here, whatever poll(2) said. A pipe's end was opened by us alone. */
    n = recv(fd, s->buf + s->end, room, MSG_DONTWAIT);
    if (n < 0 && errno == ENOTSOCK)
        n = read(fd, s->buf + s->end, room);
    if (n < 0)
        return -errno;
    s->end += (size_t)n;
    return (int)n;
}

size_t stream_feed(struct stream *s, const void *data, size_t len)
{
    size_t room = stream_compact(s), n = len < room ? len : room;

    memcpy(s->buf + s->end, data, n);
    s->end += n;
    return n;
}

/* A frame that is one struct and nothing else. All members of the union start at
 * the same place. */
static int decode_plain(const struct stream_row *row, const unsigned char *p, size_t len, unsigned count,
                        struct stream_event *ret)
{
    if (len != row->size || count > 1)
        return -EPROTO;
    memcpy(&ret->hello, p, len);
    return 0;
}

/* Another ABI may have another HELLO: only its first word is certain. */
static int decode_hello(const struct stream_row *row, const unsigned char *p, size_t len, unsigned count,
                        struct stream_event *ret)
{
    if (len < sizeof(ret->hello.abi))
        return -EPROTO;
    memcpy(&ret->hello.abi, p, sizeof(ret->hello.abi));
    if (ret->hello.abi == 0)
        return -EPROTO;
    return ret->hello.abi == MP_ABI ? decode_plain(row, p, len, count, ret) : 0;
}

static int decode_failed(const struct stream_row *row, const unsigned char *p, size_t len, unsigned count,
                         struct stream_event *ret)
{
    int err = decode_plain(row, p, len, count, ret);

    ret->failed.text[sizeof(ret->failed.text) - 1] = 0;
    return err;
}

static int decode_code(const struct stream_row *row, const unsigned char *p, size_t len, unsigned count,
                       struct stream_event *ret)
{
    struct mp_code *h = &ret->code.head;

    if (len < row->size || count > 1)
        return -EPROTO;
    memcpy(h, p, row->size);
    if (h->id < 1 || h->id > MP_CODES_MAX || h->name_len > MP_NAME_MAX || h->file_len > MP_PATH_MAX ||
        h->module_len > MP_NAME_MAX)
        return -EPROTO;
    if (len != row->size + h->name_len + h->file_len + h->module_len)
        return -EPROTO;
    ret->code.name = (const char *)p + row->size;
    ret->code.file = ret->code.name + h->name_len;
    ret->code.module = ret->code.file + h->file_len;
    return 0;
}

static int decode_thread(const struct stream_row *row, const unsigned char *p, size_t len, unsigned count,
                         struct stream_event *ret)
{
    struct mp_thread *h = &ret->thread.head;

    if (len < row->size || count > 1)
        return -EPROTO;
    memcpy(h, p, row->size);
    if (h->id < 1 || h->tid < 0 || h->name_len > MP_THREAD_NAME_MAX || len != row->size + h->name_len)
        return -EPROTO;
    ret->thread.name = (const char *)p + row->size;
    return 0;
}

static int decode_note(const struct stream_row *row, const unsigned char *p, size_t len, unsigned count,
                       struct stream_event *ret)
{
    if (len < row->size || count > 1)
        return -EPROTO;
    memcpy(&ret->note.head, p, row->size);
    if (len != row->size + ret->note.head.text_len)
        return -EPROTO;
    ret->note.text = (const char *)p + row->size;
    return 0;
}

static bool record_bytes_ok(const struct mp_record *r)
{
    if ((r->flags & MP_REC_HAS_USS) && (r->uss_bytes > STREAM_BYTES_MAX || r->swap_bytes > STREAM_BYTES_MAX))
        return false;
    if ((r->flags & MP_REC_HAS_USS_DELTA) &&
        (r->uss_delta > (int64_t)STREAM_BYTES_MAX || r->uss_delta < -(int64_t)STREAM_BYTES_MAX))
        return false;
    return !(r->flags & MP_REC_HAS_PEAK) || r->peak_bytes <= STREAM_BYTES_MAX;
}

static bool record_ok(const struct mp_record *r)
{
    if (r->type != MP_REC_CALL && r->type != MP_REC_LINE)
        return false;
    if (r->code_id > MP_CODES_MAX || r->thread_id < 1 || r->depth > MP_DEPTH_MAX)
        return false;
    if (r->weight_log2 > (r->type == MP_REC_CALL ? MP_SAMPLE_LOG2_MAX : 0))
        return false;
    if (r->time_ns > STREAM_TIME_MAX || r->dur_ns > r->time_ns || r->line > INT32_MAX)
        return false;
    return record_bytes_ok(r);
}

static int decode_records(const struct stream_row *row, const unsigned char *p, size_t len, unsigned count,
                          struct stream_event *ret)
{
    const struct mp_record *rec = (const struct mp_record *)p;

    if (len != row->size * count)
        return -EPROTO;
    for (unsigned i = 0; i < count; i++)
        if (!record_ok(&rec[i]))
            return -EPROTO;
    ret->records.rec = rec;
    ret->records.count = count;
    return 0;
}

static bool account_ok(const struct mp_account *a)
{
    for (unsigned i = 0; i < MP_STAGES; i++)
        if (a->stage_ns[i] > STREAM_TIME_MAX)
            return false;
    return a->work_ns <= STREAM_TIME_MAX && a->agent_ns <= STREAM_TIME_MAX && a->floor_ns <= STREAM_TIME_MAX &&
           a->blind_ns <= STREAM_TIME_MAX && a->rest_ns <= STREAM_TIME_MAX && a->cost_ppm <= MP_COST_MAX_PPM && a->deepest < MP_STAGES && a->least_depth <= MP_DEPTH_MAX &&
           a->most_sample_log2 <= MP_SAMPLE_LOG2_MAX;
}

static int decode_stats(const struct stream_row *row, const unsigned char *p, size_t len, unsigned count,
                        struct stream_event *ret)
{
    const struct mp_stats *st = &ret->stats;
    int err = decode_plain(row, p, len, count, ret);

    if (!err && (st->time_ns > STREAM_TIME_MAX || st->rss_bytes > STREAM_BYTES_MAX ||
                 st->uss_bytes > STREAM_BYTES_MAX || st->peak_bytes > STREAM_BYTES_MAX ||
                 st->hook_ns > STREAM_TIME_MAX || !account_ok(&st->account)))
        return -EPROTO;
    return err;
}

static int decode_govern(const struct stream_row *row, const unsigned char *p, size_t len, unsigned count,
                         struct stream_event *ret)
{
    const struct mp_govern *v = &ret->govern;
    int err = decode_plain(row, p, len, count, ret);

    if (err)
        return err;
    if (v->stage >= MP_STAGES || v->depth < 1 || v->depth > MP_DEPTH_MAX || v->sample_log2 > MP_SAMPLE_LOG2_MAX ||
        v->cost_ppm > MP_COST_MAX_PPM || v->floor_ppm > MP_COST_MAX_PPM)
        return -EPROTO;
    if (v->time_ns > STREAM_TIME_MAX || v->window_ns > STREAM_TIME_MAX || v->hook_ns > STREAM_TIME_MAX ||
        v->work_ns > STREAM_TIME_MAX)
        return -EPROTO;
    return 0;
}

static int decode_bye(const struct stream_row *row, const unsigned char *p, size_t len, unsigned count,
                      struct stream_event *ret)
{
    int err = decode_plain(row, p, len, count, ret);

    if (!err && (ret->bye.hook_ns > STREAM_TIME_MAX || !account_ok(&ret->bye.account)))
        return -EPROTO;
    return err;
}

static const struct stream_row rows[] = {
    {MP_MSG_HELLO, IN(STREAM_START), sizeof(struct mp_hello), STREAM_HELLO, decode_hello},
    {MP_MSG_SELFTEST, IN(STREAM_HELLO), sizeof(struct mp_selftest), STREAM_STATES, decode_plain},
    {MP_MSG_HOOKED, IN(STREAM_HELLO), sizeof(struct mp_slots), STREAM_HOOKED, decode_plain},
    {MP_MSG_FAILED, IN(STREAM_HELLO), sizeof(struct mp_failed), STREAM_FAILED, decode_failed},
    {MP_MSG_CODE, IN(STREAM_HOOKED), sizeof(struct mp_code), STREAM_STATES, decode_code},
    {MP_MSG_THREAD, IN(STREAM_HOOKED), sizeof(struct mp_thread), STREAM_STATES, decode_thread},
    {MP_MSG_RECORDS, IN(STREAM_HOOKED), sizeof(struct mp_record), STREAM_STATES, decode_records},
    {MP_MSG_LOST, IN(STREAM_HOOKED), sizeof(struct mp_lost), STREAM_STATES, decode_plain},
    {MP_MSG_STATS, IN(STREAM_HELLO) | IN(STREAM_HOOKED) | IN(STREAM_FAILED), sizeof(struct mp_stats),
     STREAM_STATES, decode_stats},
    {MP_MSG_BYE, IN(STREAM_HELLO) | IN(STREAM_HOOKED) | IN(STREAM_FAILED), sizeof(struct mp_bye), STREAM_BYE,
     decode_bye},
    {MP_MSG_GOVERN, IN(STREAM_HOOKED), sizeof(struct mp_govern), STREAM_STATES, decode_govern},
    {MP_MSG_NOTE, IN(STREAM_HELLO) | IN(STREAM_HOOKED) | IN(STREAM_FAILED), sizeof(struct mp_note),
     STREAM_STATES, decode_note},
};

static const struct stream_row *stream_row(unsigned type)
{
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
        if (rows[i].type == type)
            return &rows[i];
    return NULL;
}

/* Records are read in place: their frame is moved down, over consumed bytes, so
 * that they are aligned. pos is a sum of frame lengths, so there is room below. */
static void stream_align(struct stream *s, size_t len)
{
    size_t off = s->pos % 8;

    if (!off)
        return;
    memmove(s->buf + s->pos - off, s->buf + s->pos, len);
}

static int stream_frame(struct stream *s, const struct mp_frame *f, struct stream_event *ret)
{
    const struct stream_row *row = stream_row(f->type);
    size_t start = s->pos - s->pos % 8;
    struct stream_event ev;
    int err;

    if (!row || !(row->states & IN(s->state)))
        return -EPROTO;
    if (row->type == MP_MSG_SELFTEST && s->have_selftest)
        return -EPROTO;
    stream_align(s, f->len);
    memset(&ev, 0, sizeof(ev));
    ev.type = row->type;
    err = row->decode(row, s->buf + start + sizeof(*f), f->len - sizeof(*f), f->count, &ev);
    if (err)
        return err;
    s->pos += f->len;
    s->have_selftest |= row->type == MP_MSG_SELFTEST;
    if (row->next != STREAM_STATES)
        s->state = row->next;
    *ret = ev;
    return 1;
}

int stream_next(struct stream *s, struct stream_event *ret)
{
    struct mp_frame f;
    int n;

    if (s->dead)
        return -EPROTO;
    if (s->state == STREAM_BYE && s->pos < s->end) {
        s->dead = true;
        return -EPROTO;
    }
    if (s->end - s->pos < sizeof(f))
        return 0;
    memcpy(&f, s->buf + s->pos, sizeof(f));
    if (f.len < sizeof(f) || f.len > MP_FRAME_MAX) {
        s->dead = true;
        return -EPROTO;
    }
    if (s->end - s->pos < f.len)
        return 0;
    n = stream_frame(s, &f, ret);
    s->dead = n < 0 || (ret->type == MP_MSG_HELLO && ret->hello.abi != MP_ABI);
    return n;
}

/* Drops n written bytes from the front; returns how many parts are left. */
static int iov_advance(struct iovec **iov, int parts, size_t n)
{
    while (parts && n >= (*iov)->iov_len) {
        n -= (*iov)->iov_len;
        (*iov)++;
        parts--;
    }
    if (parts) {
        (*iov)->iov_base = (char *)(*iov)->iov_base + n;
        (*iov)->iov_len -= n;
    }
    return parts;
}

/* A pipe may have room for no more than a page (pipe(7)): the rest of a frame follows
 * as the agent reads. 0 or -errno, as stream_send. */
static int stream_send_pipe(int fd, struct iovec *iov, int parts)
{
    struct pollfd room = {fd, POLLOUT, 0};
    bool begun = false;

    while (parts) {
        ssize_t n = writev(fd, iov, parts);

        if (n >= 0) {
            begun = true;
            parts = iov_advance(&iov, parts, (size_t)n);
        } else if (errno == EAGAIN && begun) {
            if (poll(&room, 1, PIPE_WAIT_MS) == 0)
                return -EIO;
        } else if (errno != EINTR) {
            return -errno;
        }
    }
    return 0;
}

int stream_send(int fd, enum mp_msg type, const void *payload, size_t len)
{
    struct mp_frame f = {.type = (uint16_t)type, .count = len ? 1 : 0};
    struct iovec iov[2] = {{&f, sizeof(f)}, {(void *)(uintptr_t)payload, len}};
    struct msghdr msg = {.msg_iov = iov, .msg_iovlen = len ? 2 : 1};
    ssize_t n;

    if (len > MP_FRAME_MAX - sizeof(f))
        return -EMSGSIZE;
    if (FAULT_POINT("send", (int)type))
        return -EIO;
    f.len = (uint32_t)(sizeof(f) + len);
    do
        n = sendmsg(fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
    while (n < 0 && errno == EINTR);
    if (n < 0 && errno == ENOTSOCK)
        return stream_send_pipe(fd, iov, len ? 2 : 1);
    if (n < 0)
        return errno == EWOULDBLOCK ? -EAGAIN : -errno;
    return (size_t)n == f.len ? 0 : -EIO;
}
