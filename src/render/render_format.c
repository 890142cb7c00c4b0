/* Human sizes and durations (see render.h). */
#include <inttypes.h>
#include <stdio.h>

#include "render/render.h"

/* v in at most four characters: "9.9", "123", "1023". */
static void format_scaled(char *buf, size_t len, const char *sign, double v, const char *unit)
{
    snprintf(buf, len, v < 99.95 ? "%s%.1f %s" : "%s%.0f %s", sign, v, unit);
}

char *render_size(char *buf, size_t len, int64_t bytes, bool sign)
{
    static const char *const units[] = {"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    uint64_t magnitude = bytes < 0 ? -(uint64_t)bytes : (uint64_t)bytes;
    const char *s = bytes < 0 ? "-" : sign && bytes > 0 ? "+" : "";
    double v = (double)magnitude / 1024;
    size_t u = 0;

    if (magnitude < 1024) {
        snprintf(buf, len, "%s%" PRIu64 " B", s, magnitude);
        return buf;
    }
    while (v >= 1023.5 && u + 1 < sizeof(units) / sizeof(units[0])) {
        v /= 1024;
        u++;
    }
    if (u == 0 && magnitude % 1024 == 0)
        snprintf(buf, len, "%s%" PRIu64 " KiB", s, magnitude / 1024);
    else
        format_scaled(buf, len, s, v, units[u]);
    return buf;
}

/* Two units, whole numbers: from 1000 s on. */
static void format_long(char *buf, size_t len, uint64_t s)
{
    if (s < 3600)
        snprintf(buf, len, "%um%02us", (unsigned)(s / 60), (unsigned)(s % 60));
    else if (s < 100 * 3600)
        snprintf(buf, len, "%uh%02um", (unsigned)(s / 3600), (unsigned)(s / 60 % 60));
    else
        snprintf(buf, len, "%" PRIu64 "d%02uh", s / 86400, (unsigned)(s / 3600 % 24));
}

char *render_duration(char *buf, size_t len, uint64_t ns)
{
    static const char *const units[] = {"us", "ms", "s"};
    double v = (double)ns / 1e3;
    size_t u = 0;

    if (ns < 1000) {
        snprintf(buf, len, "%" PRIu64 " ns", ns);
        return buf;
    }
    while (v >= 999.5 && u < 2) {
        v /= 1e3;
        u++;
    }
    if (v >= 999.5)
        format_long(buf, len, ns / 1000000000u);
    else
        snprintf(buf, len, v < 9.995 ? "%.2f %s" : v < 99.95 ? "%.1f %s" : "%.0f %s", v, units[u]);
    return buf;
}

char *render_pause(char *buf, size_t len, uint64_t pause_ns, uint64_t sum_ns, unsigned stops)
{
    int n = snprintf(buf, len, "paused %" PRIu64 " us", (pause_ns + 500) / 1000);

    if (stops > 1 && n > 0 && (size_t)n < len)
        snprintf(buf + n, len - (size_t)n, " (%u stops, %" PRIu64 " us in all)", stops, (sum_ns + 500) / 1000);
    return buf;
}
