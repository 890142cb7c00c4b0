/* Parser of /proc/PID/maps (Documentation/filesystems/proc.rst, fs/proc/task_mmu.c):
 *
 *   559a3c000000-559a3c021000 r-xp 00021000 fe:00 247702      /usr/bin/python3.11
 *
 * The kernel escapes a newline in a name as \012 and nothing else, so every
 * mapping is one line; all other bytes of a name are as the file's owner chose
 * them. A name that really contains the four characters \012 cannot be told
 * apart: opening by name is therefore always checked against device and inode
 * (elf.c). */
#include "target/maps.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "target/proc.h"

/* A cursor over one line; every step fails softly and keeps failing. */
struct cursor {
    const char *at, *end;
    bool bad;
};

static uint64_t take_number(struct cursor *c, unsigned base)
{
    uint64_t v = 0;
    const char *start = c->at;
    while (c->at < c->end) {
        unsigned char ch = (unsigned char)*c->at;
        unsigned digit;
        if (ch >= '0' && ch <= '9')
            digit = ch - '0';
        else if (base == 16 && ch >= 'a' && ch <= 'f')
            digit = ch - 'a' + 10u;
        else
            break;
        if (v > (UINT64_MAX - digit) / base)
            c->bad = true;
        v = v * base + digit;
        c->at++;
    }
    if (c->at == start)
        c->bad = true;
    return v;
}

static void take_char(struct cursor *c, char want)
{
    if (c->at < c->end && *c->at == want)
        c->at++;
    else
        c->bad = true;
}

/* One of two characters, as in "r" or "-". */
static bool take_flag(struct cursor *c, char on, char off)
{
    bool is_on;
    if (c->at >= c->end || (*c->at != on && *c->at != off)) {
        c->bad = true;
        return false;
    }
    is_on = *c->at == on;
    c->at++;
    return is_on;
}

/* Puts newlines back and cuts " (deleted)"; in place, the result is shorter. */
static void take_name(struct maps_entry *e, char *name, size_t len)
{
    static const char gone[] = " (deleted)";
    const size_t gone_len = sizeof(gone) - 1;
    size_t from, to = 0;
    if (len >= gone_len && !memcmp(name + len - gone_len, gone, gone_len)) {
        e->deleted = true;
        len -= gone_len;
    }
    for (from = 0; from < len; from++) {
        if (len - from >= 4 && !memcmp(name + from, "\\012", 4)) {
            name[to++] = '\n';
            from += 3;
        } else {
            name[to++] = name[from];
        }
    }
    name[to] = '\0';
    e->name = name;
}

/* line[0..len), line[len] is writable (it was the newline or the final NUL). */
static bool parse_line(struct maps_entry *ret, char *line, size_t len)
{
    struct cursor c = {line, line + len, false};
    struct maps_entry e = {0};
    e.lo = take_number(&c, 16);
    take_char(&c, '-');
    e.hi = take_number(&c, 16);
    take_char(&c, ' ');
    e.read = take_flag(&c, 'r', '-');
    e.write = take_flag(&c, 'w', '-');
    e.exec = take_flag(&c, 'x', '-');
    e.shared = take_flag(&c, 's', 'p');
    take_char(&c, ' ');
    e.offset = take_number(&c, 16);
    take_char(&c, ' ');
    e.dev_major = (uint32_t)take_number(&c, 16);
    take_char(&c, ':');
    e.dev_minor = (uint32_t)take_number(&c, 16);
    take_char(&c, ' ');
    e.inode = take_number(&c, 10);
    if (c.bad || e.lo >= e.hi)
        return false;
    while (c.at < c.end && *c.at == ' ')
        c.at++;
    take_name(&e, line + (c.at - line), (size_t)(c.end - c.at));
    *ret = e;
    return true;
}

/* Rising order is what the lookups rely on. The kernel tells mappings in pieces: when one that it
 * has told grows meanwhile, the next piece begins with all of it, and what is new counts. */
static bool fit_behind(struct maps_entry *e, raddr_t hi)
{
    if (e->lo >= hi)
        return true;
    if (e->hi <= hi)
        return false;
    e->offset += e->inode ? hi - e->lo : 0;
    e->lo = hi;
    return true;
}

static size_t count_lines(const char *text, size_t len)
{
    size_t n = 1;
    const char *at = text, *end = text + len;
    while (at < end && (at = memchr(at, '\n', (size_t)(end - at)))) {
        n++;
        at++;
    }
    return n;
}

/* Takes over text (len bytes and a NUL, from malloc). */
static int parse_owned(struct maps *ret, char *text, size_t len)
{
    struct maps m = {.text = text};
    char *at = text, *end = text + len;
    m.entry = calloc(count_lines(text, len), sizeof(*m.entry));
    if (!m.entry) {
        free(text);
        return -ENOMEM;
    }
    while (at < end) {
        char *eol = memchr(at, '\n', (size_t)(end - at));
        size_t line_len = (size_t)((eol ? eol : end) - at);
        if (parse_line(&m.entry[m.count], at, line_len) && fit_behind(&m.entry[m.count], m.count ? m.entry[m.count - 1].hi : 0))
            m.count++;
        else
            m.skipped++;
        at += line_len + 1;
    }
    *ret = m;
    return 0;
}

int maps_parse(struct maps *ret_maps, const char *text, size_t len)
{
    char *copy = malloc(len + 1);
    if (!copy)
        return -ENOMEM;
    memcpy(copy, text, len);
    copy[len] = '\0';
    return parse_owned(ret_maps, copy, len);
}

int maps_read(struct maps *ret_maps, pid_t pid)
{
    char *text;
    size_t len;
    int r = proc_read(pid, "maps", &text, &len);
    if (r < 0)
        return r;
    return parse_owned(ret_maps, text, len);
}

void maps_release(struct maps *m)
{
    free(m->entry);
    free(m->text);
    *m = (struct maps){0};
}

const struct maps_entry *maps_at(const struct maps *m, raddr_t addr)
{
    size_t lo = 0, hi = m->count;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if (addr < m->entry[mid].lo)
            hi = mid;
        else if (addr >= m->entry[mid].hi)
            lo = mid + 1;
        else
            return &m->entry[mid];
    }
    return NULL;
}

bool maps_same_file(const struct maps_entry *a, const struct maps_entry *b)
{
    return a->inode && a->inode == b->inode && a->dev_major == b->dev_major && a->dev_minor == b->dev_minor;
}

static const struct maps_entry *next_of(const struct maps *m, const struct maps_entry *prev)
{
    if (!m->count)
        return NULL;
    return prev ? prev + 1 : m->entry;
}

/* A module's mappings lie together, so looking back a little finds nearly every
 * repetition; a file mapped again far away is met twice, which callers bear. */
static bool seen_just_before(const struct maps *m, const struct maps_entry *e)
{
    const struct maps_entry *p = e;
    unsigned back = 64;
    while (p > m->entry && back--) {
        p--;
        if (p->exec && maps_same_file(p, e))
            return true;
    }
    return false;
}

const struct maps_entry *maps_next_module(const struct maps *m, const struct maps_entry *prev)
{
    const struct maps_entry *e, *end = m->entry + m->count;
    for (e = next_of(m, prev); e && e < end; e++)
        if (e->exec && e->inode && !seen_just_before(m, e))
            return e;
    return NULL;
}

const struct maps_entry *maps_next_named(const struct maps *m, const struct maps_entry *prev, const char *name)
{
    const struct maps_entry *e, *end = m->entry + m->count;
    for (e = next_of(m, prev); e && e < end; e++)
        if (!strcmp(e->name, name))
            return e;
    return NULL;
}

const char *maps_basename(const struct maps_entry *e)
{
    const char *slash = strrchr(e->name, '/');
    return slash ? slash + 1 : e->name;
}
