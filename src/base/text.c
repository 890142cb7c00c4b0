/* Cells of a table (see text.h). */
#include "base/text.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "base/utf8.h"

/* Bytes of the longest prefix of s that takes at most cols columns and room bytes. */
static size_t text_prefix(const char *s, size_t len, unsigned cols, size_t room)
{
    unsigned used = 0;
    size_t i = 0;

    while (i < len) {
        uint32_t cp;
        size_t n = utf8_decode(s + i, len - i, &cp);

        used += utf8_char_width(cp);
        if (used > cols || i + n > room)
            break;
        i += n;
    }
    return i;
}

/* Start of the longest suffix of s that takes at most cols columns and room bytes. */
static size_t text_suffix(const char *s, size_t len, unsigned cols, size_t room)
{
    unsigned total = utf8_width(s);
    size_t i = 0;

    while (i < len && (total > cols || len - i > room)) {
        uint32_t cp;

        i += utf8_decode(s + i, len - i, &cp);
        total -= utf8_char_width(cp);
    }
    return i;
}

char *text_fit(char *buf, size_t size, const char *s, unsigned cols, enum text_keep keep)
{
    size_t len = strlen(s), head, tail, room = size ? size - 1 : 0;
    unsigned mark = sizeof(TEXT_CUT) - 1, left;

    if (size == 0)
        return buf;
    if (cols == 0)
        cols = ~0u;
    if (len <= room && utf8_width(s) <= cols) {
        memcpy(buf, s, len + 1);
        return buf;
    }
    if (cols <= mark || room <= mark) {
        head = text_prefix(s, len, cols, room);
        memcpy(buf, s, head);
        buf[head] = 0;
        return buf;
    }
    left = cols - mark;
    room -= mark;
    head = keep == TEXT_KEEP_ENDS ? text_prefix(s, len, left / 2, room / 2) : 0;
    tail = text_suffix(s, len, keep == TEXT_KEEP_ENDS ? left - left / 2 : left, room - head);
    memcpy(buf, s, head);
    memcpy(buf + head, TEXT_CUT, mark);
    memcpy(buf + head + mark, s + tail, len - tail + 1);
    return buf;
}

static void text_put(char *buf, size_t size, const char *s)
{
    size_t used = strlen(buf), n = strlen(s), room = size - 1 - used;

    if (n > room)
        n = text_prefix(s, n, ~0u, room);
    memcpy(buf + used, s, n);
    buf[used + n] = 0;
}

static void text_pad(char *buf, size_t size, unsigned have, unsigned want)
{
    size_t used = strlen(buf);

    for (; have < want && used + 1 < size; have++)
        buf[used++] = ' ';
    buf[used] = 0;
}

void text_append(char *buf, size_t size, const char *s, unsigned cols)
{
    text_put(buf, size, s);
    text_pad(buf, size, utf8_width(s), cols);
}

void text_append_right(char *buf, size_t size, const char *s, unsigned cols)
{
    text_pad(buf, size, utf8_width(s), cols);
    text_put(buf, size, s);
}

char *text_thousands(char *buf, size_t size, unsigned long long n)
{
    char digits[24];
    size_t len, used = 0;

    snprintf(digits, sizeof(digits), "%llu", n);
    len = strlen(digits);
    for (size_t i = 0; i < len && used + 2 < size; i++) {
        if (i && (len - i) % 3 == 0)
            buf[used++] = ',';
        buf[used++] = digits[i];
    }
    if (size)
        buf[used] = 0;
    return buf;
}
