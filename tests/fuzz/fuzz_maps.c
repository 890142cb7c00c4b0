/* Any bytes as /proc/PID/maps. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "target/maps.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct maps m;
    const struct maps_entry *e = NULL;
    size_t i;
    if (maps_parse(&m, (const char *)data, size) < 0)
        return 0;
    for (i = 0; i < m.count; i++) {
        /* What the lookups rely on. */
        if (m.entry[i].lo >= m.entry[i].hi || (i && m.entry[i].lo < m.entry[i - 1].hi))
            abort();
        if (maps_at(&m, m.entry[i].lo) != &m.entry[i] || !maps_basename(&m.entry[i]))
            abort();
    }
    while ((e = maps_next_module(&m, e)))
        if (!e->exec)
            abort();
    maps_release(&m);
    return 0;
}
