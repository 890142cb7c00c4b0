/* Foreign text made fit for a terminal and for JSON (see utf8.h). */
#include "base/utf8.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct utf8_range {
    uint32_t first, last;
};

static const struct utf8_range unsafe_ranges[] = {
    {0x0000, 0x001f}, {0x007f, 0x009f},  /* C0, DEL, C1 */
    {0x00ad, 0x00ad},                    /* soft hyphen: invisible */
    {0x061c, 0x061c}, {0x180e, 0x180e},
    {0x200b, 0x200f}, {0x2028, 0x202e},  /* zero width, marks; separators, embeddings, overrides */
    {0x2060, 0x206f},                    /* invisible operators, isolates */
    {0xd800, 0xdfff}, {0xfdd0, 0xfdef},
    {0xfeff, 0xfeff}, {0xfff0, 0xfffb},
    {0xfffe, 0xffff},
    {0xe0000, 0xe0fff},                  /* tags */
    {0x110000, 0xffffffff},
};

static const struct utf8_range wide_ranges[] = {
    {0x1100, 0x115f},   {0x2e80, 0x303e},   {0x3041, 0x33ff},   {0x3400, 0x4dbf},   {0x4e00, 0x9fff},
    {0xa000, 0xa4cf},   {0xac00, 0xd7a3},   {0xf900, 0xfaff},   {0xfe30, 0xfe6f},   {0xff00, 0xff60},
    {0xffe0, 0xffe6},   {0x1f300, 0x1f64f}, {0x1f900, 0x1f9ff}, {0x20000, 0x3fffd},
};

static const struct utf8_range zero_ranges[] = {
    {0x0300, 0x036f}, {0x0483, 0x0489}, {0x0591, 0x05bd}, {0x064b, 0x065f}, {0x1ab0, 0x1aff},
    {0x1dc0, 0x1dff}, {0x20d0, 0x20ff}, {0xfe00, 0xfe0f}, {0xfe20, 0xfe2f},
};

static bool utf8_in(const struct utf8_range *r, size_t n, uint32_t cp)
{
    for (size_t i = 0; i < n; i++)
        if (cp >= r[i].first && cp <= r[i].last)
            return true;
    return false;
}
#define UTF8_IN(table, cp) utf8_in(table, sizeof(table) / sizeof((table)[0]), cp)

/* Length a lead byte announces and the smallest value that needs it; 0: no lead byte. */
static size_t utf8_lead(unsigned char c, uint32_t *ret_bits, uint32_t *ret_min)
{
    static const struct {
        unsigned char mask, value;
        uint32_t min;
    } leads[] = {{0x80, 0x00, 0}, {0xe0, 0xc0, 0x80}, {0xf0, 0xe0, 0x800}, {0xf8, 0xf0, 0x10000}};

    for (size_t i = 0; i < 4; i++) {
        if ((c & leads[i].mask) != leads[i].value)
            continue;
        *ret_bits = c & (unsigned char)~leads[i].mask;
        *ret_min = leads[i].min;
        return i + 1;
    }
    return 0;
}

size_t utf8_decode(const char *s, size_t len, uint32_t *ret_cp)
{
    uint32_t cp = 0, min = 0;
    size_t n;

    *ret_cp = (unsigned char)s[0];
    if (*ret_cp < 0x80)
        return 1;
    n = utf8_lead((unsigned char)s[0], &cp, &min);
    *ret_cp = UTF8_BAD;
    if (n == 0 || n > len)
        return 1;
    for (size_t i = 1; i < n; i++) {
        if (((unsigned char)s[i] & 0xc0) != 0x80)
            return 1;
        cp = cp << 6 | ((unsigned char)s[i] & 0x3f);
    }
    if (cp < min || cp > 0x10ffff || (cp >= 0xd800 && cp <= 0xdfff))
        return 1;
    *ret_cp = cp;
    return n;
}

bool utf8_is_unsafe(uint32_t cp)
{
    if (cp >= 0x20 && cp < 0x7f)
        return false;
    return UTF8_IN(unsafe_ranges, cp);
}

char *utf8_sanitise_into(char *buf, size_t size, const char *s, size_t len)
{
    size_t used = 0;

    if (size == 0)
        return buf;
    for (size_t i = 0; i < len;) {
        uint32_t cp;
        size_t n = utf8_decode(s + i, len - i, &cp);
        bool bad = cp == UTF8_BAD || utf8_is_unsafe(cp);
        const char *from = bad ? "\xef\xbf\xbd" : s + i;
        size_t out = bad ? 3 : n;

        if (used + out >= size)
            break;
        memcpy(buf + used, from, out);
        used += out;
        i += n;
    }
    buf[used] = 0;
    return buf;
}

char *utf8_format_into(char *buf, size_t size, const char *fmt, va_list ap)
{
    char raw[UTF8_FORMAT_MAX];
    int n = vsnprintf(raw, sizeof(raw), fmt, ap);

    return utf8_sanitise_into(buf, size, raw, n < 0 ? 0 : strlen(raw));
}

char *utf8_sanitise(const char *s, size_t len)
{
    size_t need = 1;
    char *buf;

    for (size_t i = 0; i < len;) {
        uint32_t cp;
        size_t n = utf8_decode(s + i, len - i, &cp);

        need += cp == UTF8_BAD || utf8_is_unsafe(cp) ? 3 : n;
        i += n;
    }
    buf = malloc(need);
    return buf ? utf8_sanitise_into(buf, need, s, len) : NULL;
}

unsigned utf8_char_width(uint32_t cp)
{
    if (cp < 0x300)
        return 1;
    if (UTF8_IN(zero_ranges, cp))
        return 0;
    return UTF8_IN(wide_ranges, cp) ? 2 : 1;
}

/* Bytes at the front of s that are ASCII, eight at a time: most text is nothing else. */
static size_t utf8_ascii(const char *s, size_t len)
{
    uint64_t word;
    size_t i = 0;

    for (; i + sizeof(word) <= len; i += sizeof(word)) {
        memcpy(&word, s + i, sizeof(word));
        if (word & 0x8080808080808080u)
            break;
    }
    while (i < len && !(s[i] & 0x80))
        i++;
    return i;
}

unsigned utf8_width(const char *s)
{
    size_t len = strlen(s), ascii = utf8_ascii(s, len);
    unsigned cols = (unsigned)ascii; /* a column each, as utf8_char_width says */

    for (size_t i = ascii; i < len;) {
        uint32_t cp;

        i += utf8_decode(s + i, len - i, &cp);
        cols += utf8_char_width(cp);
    }
    return cols;
}

size_t utf8_count(const char *s)
{
    size_t len = strlen(s), count = 0;

    for (size_t i = 0; i < len; count++) {
        uint32_t cp;

        i += utf8_decode(s + i, len - i, &cp);
    }
    return count;
}
