/* JSON objects, one a line, on json-c. Adding never fails visibly: an object
 * that memory ran out for is noticed when it is written. */
#ifndef MP_JLINE_H
#define MP_JLINE_H

#include <json-c/json.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/io.h"

#define JLINE_EXACT_MAX (1ll << 53) /* larger magnitudes are strings: most readers keep doubles */

struct jline {
    struct json_object *obj; /* owned; NULL after jline_write */
    bool oom;
};

/* Begins an object whose "type" is type. */
void jline_begin(struct jline *j, const char *type);
/* key is not copied: a string constant. Each key once. */
void jline_add(struct jline *j, const char *key, struct json_object *value); /* takes value; NULL: out of memory */
void jline_text(struct jline *j, const char *key, const char *s);    /* s is sanitised UTF-8 */
void jline_foreign(struct jline *j, const char *key, const char *s); /* sanitises s; NULL: "" */
void jline_int(struct jline *j, const char *key, int64_t v);
void jline_uint(struct jline *j, const char *key, uint64_t v);
void jline_bool(struct jline *j, const char *key, bool v);
void jline_true(struct jline *j, const char *key, bool v); /* absent when false */
void jline_decimal(struct jline *j, const char *key, double v); /* three decimals */
void jline_address(struct jline *j, const char *key, uint64_t v); /* "0x7f…" */

/* Writes the object as one line and frees it. 0, -ENOMEM or io's error. */
int jline_write(struct jline *j, struct io *io) MP_MUST_CHECK;

#endif
