/* Foreign text made fit for a terminal and for JSON. */
#ifndef MP_UTF8_H
#define MP_UTF8_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

#define UTF8_BAD 0xfffdu /* U+FFFD stands for what may not be shown */

/* Decodes the character at s (len >= 1 bytes). Returns the bytes it took, 1 or
 * more; *ret_cp is UTF8_BAD for an invalid sequence (RFC 3629: overlong forms,
 * surrogates and values over U+10FFFF are invalid), which takes one byte. */
size_t utf8_decode(const char *s, size_t len, uint32_t *ret_cp);

/* May not be shown as it is: C0 and C1 controls, DEL, line and paragraph
 * separators, bidi controls (UAX #9: they can make one name look like another),
 * zero-width and invisible format characters, non-characters. */
bool utf8_is_unsafe(uint32_t cp);

/* A copy of s with every invalid or unsafe character replaced by U+FFFD, NUL
 * terminated; at most 3 bytes come from each of s. The caller frees it. NULL
 * when memory ran out. */
char *utf8_sanitise(const char *s, size_t len) MP_MUST_CHECK;

/* As above into buf, cut at a character so that it fits. Returns buf. */
char *utf8_sanitise_into(char *buf, size_t size, const char *s, size_t len);

/* vsnprintf whose result is sanitised as above: arguments may be foreign. Newlines are
 * replaced, too. Returns buf. At most UTF8_FORMAT_MAX bytes of the text are looked at. */
#define UTF8_FORMAT_MAX 2048
char *utf8_format_into(char *buf, size_t size, const char *fmt, va_list ap) __attribute__((format(printf, 3, 0)));

/* Columns a terminal gives to cp: 0 combining, 2 East Asian wide and emoji, else 1. */
unsigned utf8_char_width(uint32_t cp);

/* Columns of a NUL terminated string. */
unsigned utf8_width(const char *s);

/* Characters (code points) of a NUL terminated string. */
size_t utf8_count(const char *s);

#endif
