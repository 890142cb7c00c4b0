/* Decimal digits, two at a time: an output that writes a line a microsecond has no time
 * for printf. Inline, for the same reason. */
#ifndef MP_DIGITS_H
#define MP_DIGITS_H

#include <stdint.h>
#include <string.h>

#define DIGITS_MAX 20 /* of any 64-bit number */

extern const char digits_pairs[201];    /* "00" to "99" */
extern const uint64_t digits_powers[20]; /* 10 to the power of the index; [0] is 0: that has a digit too */

/* How many digits v has: 1 to DIGITS_MAX. */
static inline unsigned digits_count(uint64_t v)
{
    unsigned about = (64u - (unsigned)__builtin_clzll(v | 1)) * 1233 >> 12; /* bits times log10(2) */

    return about + (v >= digits_powers[about]);
}

/* v at `to`. Returns its end; no NUL is put there. */
static inline char *digits_put(char *to, uint64_t v)
{
    char *end = to + digits_count(v), *at = end;

    for (; v >= 100; v /= 100) {
        at -= 2;
        memcpy(at, digits_pairs + v % 100 * 2, 2);
    }
    if (v >= 10)
        memcpy(at - 2, digits_pairs + v * 2, 2);
    else
        at[-1] = (char)('0' + v);
    return end;
}

/* v as nine digits, zeroes in front: nanoseconds below a second. Returns its end. */
static inline char *digits_put_nine(char *to, uint32_t v)
{
    for (int i = 7; i > 0; i -= 2, v /= 100)
        memcpy(to + i, digits_pairs + v % 100 * 2, 2);
    to[0] = (char)('0' + v);
    return to + 9;
}

#endif
