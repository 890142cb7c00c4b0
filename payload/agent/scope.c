/* Which functions are in scope: globs, evaluated once per function. */
#include "agent/agent.h"

/* [set] at *p (which is '['): whether c is in it; *p is moved past the ']'. A set
 * without end is an ordinary '['. */
static bool set_match(const char **p, char c)
{
    const char *s = *p + 1;
    bool negate = *s == '!' || *s == '^';
    bool found = false, first = true;

    if (negate)
        s++;
    for (; *s && (*s != ']' || first); first = false) {
        char lo = *s++, hi = lo;

        if (s[0] == '-' && s[1] && s[1] != ']') {
            hi = s[1];
            s += 2;
        }
        if (c >= lo && c <= hi)
            found = true;
    }
    if (*s != ']') {
        bool same = c == '[';

        ++*p;
        return same;
    }
    *p = s + 1;
    return found != negate;
}

/* One pattern element at *p against c; *p is moved past it. */
static bool one_match(const char **p, char c)
{
    if (**p == '?') {
        ++*p;
        return true;
    }
    if (**p == '[')
        return set_match(p, c);
    if (**p == '\\' && (*p)[1])
        ++*p;
    return *(*p)++ == c;
}

/* fnmatch(3) without flags. On a mismatch only the last star is tried again with
 * one more character: linear per star, never exponential. */
bool glob_match(const char *pattern, const char *s, size_t len)
{
    const char *p = pattern, *star = NULL, *end = s + len, *mark = s;

    for (;;) {
        if (*p == '*') {
            star = ++p;
            mark = s;
        } else if (s < end && *p && one_match(&p, *s)) {
            s++;
        } else if (s == end && !*p) {
            return true;
        } else if (star && mark < end) {
            p = star;
            s = ++mark;
        } else {
            return false;
        }
    }
}

static bool any_match(const struct mp_patterns *ps, const char *s, size_t len)
{
    for (uint32_t i = 0; i < ps->count; i++)
        if (glob_match(ps->glob[i], s, len))
            return true;
    return false;
}

/* A name pattern is tried on the qualified name, the bare name, and both with the
 * module before them. */
static bool name_match(const struct mp_patterns *ps, const struct code_names *n)
{
    static char buf[2 * MP_NAME_MAX + 2];

    if (!ps->count)
        return false;
    if (any_match(ps, n->name, n->name_len) || any_match(ps, n->bare, n->bare_len))
        return true;
    if (!n->module_len)
        return false;
    memcpy(buf, n->module, n->module_len);
    buf[n->module_len] = '.';
    memcpy(buf + n->module_len + 1, n->name, n->name_len);
    if (any_match(ps, buf, n->module_len + 1 + n->name_len))
        return true;
    memcpy(buf + n->module_len + 1, n->bare, n->bare_len);
    return any_match(ps, buf, n->module_len + 1 + n->bare_len);
}

/* The frames with which threading starts a thread stand where the main thread has
 * its main loop: depth counts from the function the thread was made for. */
static bool starts_thread(const struct code_names *n)
{
    static const char *const names[] = { "_bootstrap", "_bootstrap_inner", "run" };

    if (n->module_len != 9 || memcmp(n->module, "threading", 9))
        return false;
    for (size_t i = 0; i < 3; i++)
        if (n->bare_len == strlen(names[i]) && !memcmp(n->bare, names[i], n->bare_len))
            return true;
    return false;
}

uint32_t scope_flags(const struct code_names *n)
{
    const struct mp_options *o = &g.opt;
    uint32_t flags = 0;

    if (name_match(&o->root, n))
        flags |= CODE_ROOT;
    if ((!o->function.count || name_match(&o->function, n)) &&
        (!o->module.count || any_match(&o->module, n->module, n->module_len)) && !name_match(&o->exclude, n) &&
        !(n->module_len && any_match(&o->exclude, n->module, n->module_len)))
        flags |= CODE_SCOPE;
    if (starts_thread(n))
        flags |= CODE_BASE;
    return flags;
}
