/* Command-line values. strtod is used for the number so that "1.5m" works; its
 * hexadecimal, infinity and sign forms are refused. */
#include "base/args.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct unit {
    const char *name;
    double factor;
};

static const struct unit duration_units[] = {
    {"", 1e9}, {"s", 1e9}, {"ms", 1e6}, {"us", 1e3}, {"m", 60e9}, {"min", 60e9}, {"h", 3600e9}, {NULL, 0},
};

static const struct unit size_units[] = {
    {"", 1},           {"b", 1},          {"k", 1024.0},     {"kb", 1024.0},    {"kib", 1024.0},
    {"m", 1048576.0},  {"mb", 1048576.0}, {"mib", 1048576.0}, {"g", 1073741824.0},
    {"gb", 1073741824.0}, {"gib", 1073741824.0}, {NULL, 0},
};

static int parse_unit(const char *s, const struct unit *units, double max, double *ret)
{
    char *end;
    double v;

    if (!isdigit((unsigned char)s[0]) || strpbrk(s, "xXpP"))
        return -EINVAL;
    errno = 0;
    v = strtod(s, &end);
    if (errno)
        return -ERANGE;
    for (; units->name; units++) {
        if (strcasecmp(end, units->name))
            continue;
        if (v * units->factor > max)
            return -ERANGE;
        *ret = v * units->factor;
        return 0;
    }
    return -EINVAL;
}

int args_duration(const char *s, uint64_t *ret_ns)
{
    double v;
    int err = parse_unit(s, duration_units, 366.0 * 86400e9, &v);
    if (!err)
        *ret_ns = (uint64_t)v;
    return err;
}

int args_size(const char *s, uint64_t *ret_bytes)
{
    double v;
    int err = parse_unit(s, size_units, 1e18, &v);
    if (!err)
        *ret_bytes = (uint64_t)v;
    return err;
}

int args_number(const char *s, long min, long max, long *ret)
{
    char *end;
    long v;

    while (isspace((unsigned char)*s))
        s++;
    if (!isdigit((unsigned char)*s) && *s != '-')
        return -EINVAL;
    errno = 0;
    v = strtol(s, &end, 10);
    while (isspace((unsigned char)*end))
        end++;
    if (*end)
        return -EINVAL;
    if (errno || v < min || v > max)
        return -ERANGE;
    *ret = v;
    return 0;
}

int args_percent(const char *s, double *ret)
{
    char *end;
    double v;

    if (!isdigit((unsigned char)s[0]) || strpbrk(s, "xXpP"))
        return -EINVAL;
    v = strtod(s, &end);
    if (*end == '%')
        end++;
    if (*end)
        return -EINVAL;
    if (v > 100)
        return -ERANGE;
    *ret = v;
    return 0;
}

char *args_expand_path(const char *s, pid_t pid)
{
    char *out = NULL;
    size_t len = 0;
    FILE *f = open_memstream(&out, &len);

    if (!f)
        return NULL;
    for (; *s; s++) {
        if (*s != '%') {
            fputc(*s, f);
        } else if (s[1] == 'p') {
            fprintf(f, "%d", (int)pid);
            s++;
        } else if (s[1] == 't') {
            char buf[32];
            time_t now = time(NULL);
            struct tm tm;
            localtime_r(&now, &tm);
            strftime(buf, sizeof(buf), "%Y%m%d-%H%M%S", &tm);
            fputs(buf, f);
            s++;
        } else if (s[1] == '%') {
            fputc('%', f);
            s++;
        } else {
            fclose(f);
            free(out);
            errno = EINVAL;
            return NULL;
        }
    }
    if (fclose(f)) {
        free(out);
        return NULL;
    }
    return out;
}
