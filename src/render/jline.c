/* JSON objects, one a line (see jline.h; the grammar is RFC 8259). */
#include "render/jline.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/digits.h"
#include "base/utf8.h"

static bool jline_room(struct jline *j, size_t more)
{
    size_t room = j->room;
    char *grown;

    if (j->oom)
        return false;
    if (room - j->len >= more)
        return true;
    while (room - j->len < more)
        room *= 2;
    grown = malloc(room);
    j->oom = !grown;
    if (!grown)
        return false;
    memcpy(grown, j->buf, j->len);
    if (j->buf != j->first)
        free(j->buf);
    j->buf = grown;
    j->room = room;
    return true;
}

static void jline_put(struct jline *j, const char *s, size_t n)
{
    if (!jline_room(j, n))
        return;
    memcpy(j->buf + j->len, s, n);
    j->len += n;
}

/* A string with its quotes. Control characters, quotes and backslashes are escaped. */
static void jline_string(struct jline *j, const char *s)
{
    size_t n = strlen(s);
    char *to;

    if (!jline_room(j, 6 * n + 2))
        return;
    to = j->buf + j->len;
    *to++ = '"';
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)s[i];

        if (c < 0x20) {
            to += sprintf(to, "\\u%04x", c);
            continue;
        }
        if (c == '"' || c == '\\')
            *to++ = '\\';
        *to++ = (char)c;
    }
    *to++ = '"';
    j->len = (size_t)(to - j->buf);
}

static void jline_comma(struct jline *j)
{
    if (j->len && j->buf[j->len - 1] != '{' && j->buf[j->len - 1] != '[')
        jline_put(j, ",", 1);
}

static void jline_key(struct jline *j, const char *key)
{
    size_t n = strlen(key);
    char *to;

    jline_comma(j);
    if (!jline_room(j, n + 3))
        return;
    to = j->buf + j->len;
    *to = '"';
    memcpy(to + 1, key, n);
    memcpy(to + 1 + n, "\":", 2);
    j->len += n + 3;
}

void jline_init(struct jline *j)
{
    j->buf = j->first;
    j->len = 0;
    j->room = sizeof(j->first);
    j->oom = false;
}

void jline_begin(struct jline *j, const char *type)
{
    jline_init(j);
    jline_put(j, "{", 1);
    jline_text(j, "type", type);
}

void jline_text(struct jline *j, const char *key, const char *s)
{
    jline_key(j, key);
    jline_string(j, s);
}

void jline_foreign(struct jline *j, const char *key, const char *s)
{
    char *clean = s ? utf8_sanitise(s, strlen(s)) : strdup("");

    j->oom |= !clean;
    if (clean)
        jline_text(j, key, clean);
    free(clean);
}

char *jline_number_at(char *to, uint64_t v, bool minus)
{
    bool exact = v <= (uint64_t)JLINE_EXACT_MAX;

    if (!exact)
        *to++ = '"';
    if (minus)
        *to++ = '-';
    to = digits_put(to, v);
    if (!exact)
        *to++ = '"';
    return to;
}

static void jline_number(struct jline *j, const char *key, uint64_t magnitude, bool minus)
{
    jline_key(j, key);
    if (jline_room(j, JLINE_NUMBER))
        jline_placed(j, jline_number_at(j->buf + j->len, magnitude, minus));
}

void jline_int(struct jline *j, const char *key, int64_t v)
{
    jline_number(j, key, v < 0 ? 0 - (uint64_t)v : (uint64_t)v, v < 0);
}

void jline_uint(struct jline *j, const char *key, uint64_t v)
{
    jline_number(j, key, v, false);
}

void jline_bool(struct jline *j, const char *key, bool v)
{
    jline_key(j, key);
    jline_put(j, v ? "true" : "false", v ? 4 : 5);
}

void jline_true(struct jline *j, const char *key, bool v)
{
    if (v)
        jline_bool(j, key, true);
}

void jline_decimal(struct jline *j, const char *key, double v)
{
    char buf[64];
    int n;

    if (!isfinite(v))
        return; /* JSON has no such number: absent is the truth */
    n = snprintf(buf, sizeof(buf), "%.3f", v > 1e15 ? 1e15 : v < -1e15 ? -1e15 : v);
    jline_key(j, key);
    jline_put(j, buf, (size_t)n);
}

void jline_address(struct jline *j, const char *key, uint64_t v)
{
    char buf[32];

    snprintf(buf, sizeof(buf), "0x%" PRIx64, v);
    jline_text(j, key, buf);
}

void jline_object(struct jline *j, const char *key)
{
    jline_key(j, key);
    jline_put(j, "{", 1);
}

void jline_array(struct jline *j, const char *key)
{
    jline_key(j, key);
    jline_put(j, "[", 1);
}

void jline_item(struct jline *j, const char *s)
{
    jline_comma(j);
    jline_string(j, s);
}

void jline_close(struct jline *j, char bracket)
{
    jline_put(j, &bracket, 1);
}

char *jline_place(struct jline *j, size_t room)
{
    return jline_room(j, room) ? j->buf + j->len : NULL;
}

int jline_flush(struct jline *j, struct io *io)
{
    int err = j->oom ? -ENOMEM : io_write(io, j->buf, j->len);

    j->len = 0;
    j->oom = false;
    return err;
}

void jline_release(struct jline *j)
{
    if (j->buf != j->first)
        free(j->buf);
    j->buf = NULL;
}

int jline_write(struct jline *j, struct io *io)
{
    int err;

    jline_put(j, "}\n", 2);
    err = jline_flush(j, io);
    jline_release(j);
    return err;
}
