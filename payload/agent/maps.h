/* This process's mappings. */
#ifndef AGENT_MAPS_H
#define AGENT_MAPS_H

#include <stdbool.h>
#include <stdint.h>

struct maps_line {
    uint64_t lo, hi;
    bool exec, anon;
};

/* Calls f for each mapping, lowest first, until it returns true; what it returned last.
 * f must not call maps_each. */
typedef bool (*maps_fn)(const struct maps_line *l, void *arg);
bool maps_each(maps_fn f, void *arg);

uint64_t parse_hex(const char **p, const char *end); /* digits without 0x; *p moves behind them */

#endif
