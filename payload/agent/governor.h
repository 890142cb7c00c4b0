/* The governor: what the hooks cost, and what is given up when that is too much
 * (policy.h decides, this measures, obeys and tells). Agent thread only; the words in
 * g.gov are what hooks see of it. */
#ifndef AGENT_GOVERNOR_H
#define AGENT_GOVERNOR_H

#include <stdint.h>

#include "wire.h"

/* From now on is counted. After the options came, before the hook. */
void governor_init(void);

/* The hook is in: the first window begins. */
void governor_start(uint64_t now);

/* At a window's end: judges it, puts the result in force, announces it. To be called
 * at least every 100 ms; returns at once in between. */
void governor_tick(uint64_t now);

/* The hook is out: closes the account. */
void governor_stop(uint64_t now);

/* Estimate of all time spent in hooks and probes since the start. */
uint64_t governor_hook_ns(void);
uint64_t governor_events(void); /* hook entries of any kind */
struct mp_account governor_account(void);

#endif
