/* /proc/self/maps, read line by line without an allocation. The agent thread only. */
#include "agent/maps.h"

#include "agent/agent.h"

static char buf[4096];

uint64_t parse_hex(const char **p, const char *end)
{
    uint64_t v = 0;

    for (; *p < end; ++*p) {
        char c = **p;

        if (c >= '0' && c <= '9')
            v = v * 16 + (uint64_t)(c - '0');
        else if (c >= 'a' && c <= 'f')
            v = v * 16 + (uint64_t)(c - 'a' + 10);
        else
            break;
    }
    return v;
}

/* "lo-hi rwxp off dev inode   name": anonymous ones have inode 0. */
static bool parse_line(const char *p, const char *end, struct maps_line *ret)
{
    ret->lo = parse_hex(&p, end);
    if (p >= end || *p++ != '-')
        return false;
    ret->hi = parse_hex(&p, end);
    if (end - p < 6)
        return false;
    ret->exec = p[3] == 'x';
    p += 6;
    parse_hex(&p, end);
    p++;
    while (p < end && *p != ' ')
        p++;
    p++;
    ret->anon = p < end && *p == '0';
    return true;
}

bool maps_each(maps_fn f, void *arg)
{
    int fd = sys_open_read("/proc/self/maps");
    size_t have = 0;
    bool found = false;
    long n;

    while (fd >= 0 && !found && (n = sys_read(fd, buf + have, sizeof(buf) - have)) > 0) {
        const char *p = buf, *end = buf + have + n, *nl;

        for (;; p = nl + 1) {
            struct maps_line l;

            for (nl = p; nl < end && *nl != '\n'; nl++)
                ;
            if (nl == end || found)
                break;
            if (parse_line(p, nl, &l))
                found = f(&l, arg);
        }
        have = (size_t)(end - p);
        if (have == sizeof(buf)) /* a line longer than the buffer names a file: not ours */
            have = 0;
        memmove(buf, p, have);
    }
    sys_close(fd);
    return found;
}
