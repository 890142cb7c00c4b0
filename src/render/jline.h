/* JSON objects, one a line, written straight into a buffer: a record a microsecond
 * leaves no time for a tree of objects. Adding never fails visibly: an object that
 * memory ran out for is noticed when it is written. */
#ifndef MP_JLINE_H
#define MP_JLINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/io.h"

#define JLINE_EXACT_MAX (1ll << 53) /* larger magnitudes are strings: most readers keep doubles */
#define JLINE_FIRST 2048            /* bytes that need no allocation */

struct jline {
    char *buf;    /* `first`, or allocated */
    size_t len, room;
    bool oom;
    char first[JLINE_FIRST];
};

/* Begins an object whose "type" is type. Must end with jline_write. */
void jline_begin(struct jline *j, const char *type);
/* Keys are string constants with nothing to escape; each once. */
void jline_text(struct jline *j, const char *key, const char *s);    /* s is sanitised UTF-8 */
void jline_foreign(struct jline *j, const char *key, const char *s); /* sanitises s; NULL: "" */
void jline_int(struct jline *j, const char *key, int64_t v);
void jline_uint(struct jline *j, const char *key, uint64_t v);
void jline_bool(struct jline *j, const char *key, bool v);
void jline_true(struct jline *j, const char *key, bool v); /* absent when false */
void jline_decimal(struct jline *j, const char *key, double v); /* three decimals; absent unless finite */
void jline_address(struct jline *j, const char *key, uint64_t v); /* "0x7f…" */

/* What is added up to jline_close goes into the object or array `key`; in an array only
 * jline_item. */
void jline_object(struct jline *j, const char *key);
void jline_array(struct jline *j, const char *key);
void jline_item(struct jline *j, const char *s); /* s is sanitised UTF-8 */
void jline_close(struct jline *j, char bracket); /* '}' or ']' */

/* Writes the object as one line and frees it. 0, -ENOMEM or io's error. */
int jline_write(struct jline *j, struct io *io) MP_MUST_CHECK;

/* Many lines in one buffer. jline_init makes an empty one; what is put into it is the caller's
 * affair, by hand: jline_place returns where `room` bytes more can be written (NULL when memory
 * ran out), jline_placed takes what was written there up to `end`. jline_flush writes all and
 * empties it: 0, -ENOMEM (once; what was in it is lost) or io's error. jline_release frees. */
void jline_init(struct jline *j);
char *jline_place(struct jline *j, size_t room);
static inline void jline_placed(struct jline *j, const char *end)
{
    j->len = (size_t)(end - j->buf);
}
int jline_flush(struct jline *j, struct io *io) MP_MUST_CHECK;
void jline_release(struct jline *j);

/* Bytes of any number as JSON: sign, quotes. */
#define JLINE_NUMBER 24
/* The number as jline_int and jline_uint write it, at `to`. Returns its end. */
char *jline_number_at(char *to, uint64_t magnitude, bool minus);

#endif
