/* The agent's own source, natively: any names of functions (the target's code objects have
 * any) against any globs (the launcher's). Without sets and escapes a glob means what it
 * means to fnmatch(3). Three bytes of lengths, then pattern, name and module. */
#include "agent/scope.c"

#include <fnmatch.h>

#include "fuzz.h"

#define PATTERN_MAX 24 /* fnmatch(3) is exponential in stars */

struct agent g;

static void take_text(struct fuzz_in *in, char *to, size_t len)
{
    fuzz_take(in, to, len);
    to[len] = '\0';
}

static bool is_plain(const char *s)
{
    for (; *s; s++)
        if (*s == '[' || *s == '\\' || (unsigned char)*s >= 0x80)
            return false;
    return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_in in = {data, size};
    size_t len[3] = {fuzz_u8(&in) % PATTERN_MAX, fuzz_u8(&in), fuzz_u8(&in)};
    char pattern[MP_PATTERN_MAX], name[MP_NAME_MAX + 1], module[MP_NAME_MAX + 1];
    struct code_names n = {.name = name, .bare = name, .module = module};
    uint32_t flags;
    bool fits;

    take_text(&in, pattern, len[0]);
    take_text(&in, name, len[1]);
    take_text(&in, module, len[2]);
    n.name_len = n.bare_len = len[1];
    n.module_len = len[2];
    fits = glob_match(pattern, name, len[1]);
    if (is_plain(pattern) && is_plain(name) && strlen(name) == len[1])
        FUZZ_HOLDS(fits == !fnmatch(pattern, name, 0));
    memset(&g.opt, 0, sizeof(g.opt));
    g.opt.root.count = 1;
    memcpy(g.opt.root.glob[0], pattern, len[0] + 1);
    g.opt.exclude = g.opt.root;
    flags = scope_flags(&n);
    if (fits)
        FUZZ_HOLDS((flags & CODE_ROOT) && !(flags & CODE_SCOPE));
    return 0;
}
