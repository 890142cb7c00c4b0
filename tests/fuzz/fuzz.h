/* What fuzz targets share. A target is a file that defines LLVMFuzzerTestOneInput:
 * libFuzzer drives it in `make fuzz`, replay.c in `make test`. A property that does not
 * hold ends in abort(), like a bug that a sanitizer finds. */
#ifndef MP_FUZZ_H
#define MP_FUZZ_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/utf8.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
/* Optional: once, before the first input. */
int LLVMFuzzerInitialize(int *argc, char ***argv);

#define FUZZ_HOLDS(property) ((property) ? (void)0 : fuzz_broken(__FILE__, __LINE__, #property))

_Noreturn static inline void fuzz_broken(const char *file, int line, const char *property)
{
    dprintf(2, "%s:%d: does not hold: %s\n", file, line, property);
    abort();
}

/* A check of ours is nothing for the fuzzer to find ways through. */
#ifdef __clang__
#define FUZZ_UNSEEN __attribute__((no_sanitize("coverage")))
#else
#define FUZZ_UNSEEN
#endif

/* The input, taken from the front; zeros once it has ended. */
struct fuzz_in {
    const uint8_t *at;
    size_t left;
};

static inline size_t fuzz_take(struct fuzz_in *in, void *to, size_t len)
{
    size_t n = len < in->left ? len : in->left;

    if (len)
        memset(to, 0, len);
    if (n)
        memcpy(to, in->at, n);
    in->at += n;
    in->left -= n;
    return n;
}

static inline uint8_t fuzz_u8(struct fuzz_in *in)
{
    uint8_t v;

    fuzz_take(in, &v, 1);
    return v;
}

static inline uint16_t fuzz_u16(struct fuzz_in *in)
{
    uint16_t v;

    fuzz_take(in, &v, sizeof(v));
    return v;
}

/* Memory at one address in every run, so that an input that holds addresses means the
 * same again. Where the address is taken, elsewhere. */
#define FUZZ_BASE 0x6d7000000000ull

static inline unsigned char *fuzz_map(size_t len, int prot)
{
    void *p = mmap((void *)(uintptr_t)FUZZ_BASE, len, prot, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    FUZZ_HOLDS(p != MAP_FAILED);
    return p;
}

/* An "ESC [ digits m" at s: its length, else 0. */
static inline size_t fuzz_color(const char *s, size_t len)
{
    size_t n = 2;

    if (len < 3 || s[0] != '\x1b' || s[1] != '[')
        return 0;
    while (n < len && ((s[n] >= '0' && s[n] <= '9') || s[n] == ';'))
        n++;
    return n < len && s[n] == 'm' ? n + 1 : 0;
}

/* What goes to a terminal or into a file: UTF-8 without anything that may not be shown,
 * but for newlines and, where they are ours, colours. */
FUZZ_UNSEEN static inline void fuzz_shown(const char *s, size_t len, int colors)
{
    size_t i = 0, n;

    while (i < len) {
        uint32_t cp = 0;

        if ((s[i] >= ' ' && s[i] < 0x7f) || s[i] == '\n') {
            i++;
            continue;
        }
        if (colors && (n = fuzz_color(s + i, len - i))) {
            i += n;
            continue;
        }
        n = utf8_decode(s + i, len - i, &cp);
        if (cp == UTF8_BAD) /* only as itself */
            FUZZ_HOLDS(len - i >= 3 && !memcmp(s + i, "\xef\xbf\xbd", 3));
        FUZZ_HOLDS(cp == '\n' || cp == UTF8_BAD || !utf8_is_unsafe(cp));
        i += n;
    }
}

#endif
