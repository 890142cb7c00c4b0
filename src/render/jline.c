/* JSON objects, one a line (see jline.h). */
#include "render/jline.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"

void jline_begin(struct jline *j, const char *type)
{
    j->obj = json_object_new_object();
    j->oom = !j->obj;
    jline_text(j, "type", type);
}

void jline_add(struct jline *j, const char *key, struct json_object *value)
{
    unsigned flags = JSON_C_OBJECT_ADD_KEY_IS_NEW | JSON_C_OBJECT_KEY_IS_CONSTANT;

    if (!j->oom && value && json_object_object_add_ex(j->obj, key, value, flags) == 0)
        return;
    json_object_put(value);
    j->oom = true;
}

void jline_text(struct jline *j, const char *key, const char *s)
{
    jline_add(j, key, json_object_new_string(s));
}

void jline_foreign(struct jline *j, const char *key, const char *s)
{
    char *clean = s ? utf8_sanitise(s, strlen(s)) : strdup("");

    jline_add(j, key, clean ? json_object_new_string(clean) : NULL);
    free(clean);
}

void jline_int(struct jline *j, const char *key, int64_t v)
{
    char buf[32];

    if (v <= JLINE_EXACT_MAX && v >= -JLINE_EXACT_MAX) {
        jline_add(j, key, json_object_new_int64(v));
        return;
    }
    snprintf(buf, sizeof(buf), "%" PRId64, v);
    jline_text(j, key, buf);
}

void jline_uint(struct jline *j, const char *key, uint64_t v)
{
    char buf[32];

    if (v <= (uint64_t)JLINE_EXACT_MAX) {
        jline_int(j, key, (int64_t)v);
        return;
    }
    snprintf(buf, sizeof(buf), "%" PRIu64, v);
    jline_text(j, key, buf);
}

void jline_bool(struct jline *j, const char *key, bool v)
{
    jline_add(j, key, json_object_new_boolean(v));
}

void jline_true(struct jline *j, const char *key, bool v)
{
    if (v)
        jline_bool(j, key, true);
}

void jline_decimal(struct jline *j, const char *key, double v)
{
    char buf[64];

    if (!isfinite(v))
        return; /* JSON has no such number: absent is the truth */
    snprintf(buf, sizeof(buf), "%.3f", v > 1e15 ? 1e15 : v < -1e15 ? -1e15 : v);
    jline_add(j, key, json_object_new_double_s(v, buf));
}

void jline_address(struct jline *j, const char *key, uint64_t v)
{
    char buf[32];

    snprintf(buf, sizeof(buf), "0x%" PRIx64, v);
    jline_text(j, key, buf);
}

int jline_write(struct jline *j, struct io *io)
{
    const char *s = j->oom ? NULL
                           : json_object_to_json_string_ext(j->obj, JSON_C_TO_STRING_PLAIN |
                                                                        JSON_C_TO_STRING_NOSLASHESCAPE);
    int err = -ENOMEM;

    if (s) {
        io_puts(io, s);
        err = io_puts(io, "\n");
    }
    json_object_put(j->obj);
    j->obj = NULL;
    return err;
}
