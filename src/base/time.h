/* Points in time as text. The caller's zone is TZ's. */
#ifndef MP_TIME_H
#define MP_TIME_H

#include <stddef.h>
#include <stdint.h>
#include <time.h>

/* Remembers the last second formatted: records come many to a second, and
 * localtime_r takes a lock. Zero-initialise. */
struct time_cache {
    int64_t second;
    char text[32];
    int filled;
};

/* CLOCK_REALTIME nanoseconds as "14:03:22.123", local time. buf of at least 16
 * bytes. A time that the calendar can't name gives "--:--:--.---". Returns buf. */
char *time_local(struct time_cache *c, char *buf, size_t size, int64_t real_ns);

/* As RFC 3339 in UTC with nanoseconds: "2026-05-04T12:03:22.123456789Z", always
 * TIME_RFC3339 bytes. buf of at least 40 bytes. A time outside years 1970 to 9999
 * gives "". Returns buf. */
#define TIME_RFC3339 30
char *time_rfc3339(struct time_cache *c, char *buf, size_t size, int64_t real_ns);

#endif
