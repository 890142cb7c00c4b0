/* Points in time as text (see time.h). */
#include "base/time.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "base/digits.h"

#define NS 1000000000ll
#define TIME_SECOND 19 /* bytes of "2026-05-04T12:03:22" */
#define YEAR_9999_END 253402300800ll /* seconds since the epoch */

static bool time_split(int64_t real_ns, int64_t *ret_second, int *ret_ns)
{
    int64_t second = real_ns / NS;

    if (real_ns < 0 || second >= YEAR_9999_END)
        return false;
    *ret_second = second;
    *ret_ns = (int)(real_ns % NS);
    return true;
}

/* The whole second, from the cache when it is the one asked for last. */
static bool time_second(struct time_cache *c, int64_t second, bool utc)
{
    time_t t = (time_t)second;
    struct tm tm;

    if (c->filled && c->second == second)
        return true;
    if (!(utc ? gmtime_r(&t, &tm) : localtime_r(&t, &tm)))
        return false;
    if (strftime(c->text, sizeof(c->text), utc ? "%Y-%m-%dT%H:%M:%S" : "%H:%M:%S", &tm) == 0)
        return false;
    c->second = second;
    c->filled = 1;
    return true;
}

char *time_local(struct time_cache *c, char *buf, size_t size, int64_t real_ns)
{
    int64_t second;
    int ns;

    if (time_split(real_ns, &second, &ns) && time_second(c, second, false))
        snprintf(buf, size, "%s.%03d", c->text, ns / 1000000);
    else
        snprintf(buf, size, "--:--:--.---");
    return buf;
}

char *time_rfc3339(struct time_cache *c, char *buf, size_t size, int64_t real_ns)
{
    int64_t second;
    int ns;

    buf[0] = 0;
    if (size <= TIME_RFC3339 || !time_split(real_ns, &second, &ns) || !time_second(c, second, true))
        return buf;
    memcpy(buf, c->text, TIME_SECOND);
    buf[TIME_SECOND] = '.';
    memcpy(digits_put_nine(buf + TIME_SECOND + 1, (uint32_t)ns), "Z", 2);
    return buf;
}
