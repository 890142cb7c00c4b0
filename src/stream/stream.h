/* The launcher's end of the wire: bytes from an untrusted peer in, checked
 * events out. Knows no ptrace.
 *
 * What the decoder guarantees for every event it hands out, whatever the peer
 * sent: the order of wire.h (HELLO first and once; nothing but NOTE, STATS,
 * SELFTEST, HOOKED, FAILED, BYE before HOOKED; nothing after BYE), strings
 * within the frame and the limits of limits.h, ids within range, records of a
 * known type with depth <= MP_DEPTH_MAX and a weight of the governor's, stages
 * that exist, byte figures below STREAM_BYTES_MAX, times below STREAM_TIME_MAX
 * and no call longer than its own clock. It does not
 * guarantee that a code or thread id was announced, nor that figures are true. */
#ifndef MP_STREAM_H
#define MP_STREAM_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "wire.h"

#define STREAM_BYTES_MAX (1ull << 52) /* 4 PiB: sums of a few stay in 64 bits, JSON keeps it exact */
#define STREAM_TIME_MAX (1ull << 62)  /* 146 years of nanoseconds */

/* One decoded frame. Pointers are into the decoder's buffer and live until the
 * next call on it. Strings are not NUL terminated and not yet sanitised. */
struct stream_event {
    enum mp_msg type;
    union {
        struct mp_hello hello;
        struct mp_selftest selftest;
        struct mp_slots slots;      /* HOOKED */
        struct mp_failed failed;    /* text is NUL terminated by the decoder, not sanitised */
        struct { struct mp_code head; const char *name, *file, *module; } code;
        struct { struct mp_thread head; const char *name; } thread;
        struct { const struct mp_record *rec; unsigned count; } records;
        struct mp_lost lost;
        struct mp_stats stats;
        struct mp_govern govern;
        struct mp_bye bye;
        struct { struct mp_note head; const char *text; } note;
    };
};

struct stream; /* decoder and its bounded buffer (MP_FRAME_MAX) */

struct stream *stream_new(void); /* NULL when memory ran out */
void stream_free(struct stream *s);

/* Reads once from fd (non-blocking). Returns bytes read, 0 at end of file,
 * -EAGAIN when there is nothing now, -ENOBUFS when a whole frame waits in the
 * buffer (call stream_next first), another -errno otherwise. */
int stream_fill(struct stream *s, int fd) MP_MUST_CHECK;

/* Adds bytes from memory (tests, fuzzing). Returns the number taken. */
size_t stream_feed(struct stream *s, const void *data, size_t len);

/* 1 and *ret filled for the next whole frame; 0 when more bytes are needed;
 * -EPROTO when the peer broke the protocol (the stream is then dead: every
 * later call answers the same). After a HELLO of another MP_ABI, which is handed
 * out, nothing else can be read: -EPROTO. */
int stream_next(struct stream *s, struct stream_event *ret) MP_MUST_CHECK;

/* Writes one frame to fd, a socket or a pipe (then SIGPIPE must be ignored). 0, or -errno (-EAGAIN when it does not fit now; then
 * nothing was written, or, when a part was taken and the rest is not, -EIO: the
 * connection is of no use any more). -EMSGSIZE over MP_FRAME_MAX. */
int stream_send(int fd, enum mp_msg type, const void *payload, size_t len) MP_MUST_CHECK;

#endif
