/* Any bytes as /proc/PID/maps. */
#include "fuzz.h"

#include "target/maps.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct maps m;
    const struct maps_entry *e = NULL;
    size_t i;

    if (maps_parse(&m, (const char *)data, size) < 0)
        return 0;
    for (i = 0; i < m.count; i++) {
        /* What the lookups rely on. */
        FUZZ_HOLDS(m.entry[i].lo < m.entry[i].hi && (!i || m.entry[i].lo >= m.entry[i - 1].hi));
        FUZZ_HOLDS(maps_at(&m, m.entry[i].lo) == &m.entry[i] && maps_at(&m, m.entry[i].hi - 1) == &m.entry[i]);
        FUZZ_HOLDS(maps_basename(&m.entry[i]) && !strchr(maps_basename(&m.entry[i]), '/'));
    }
    while ((e = maps_next_module(&m, e)))
        FUZZ_HOLDS(e->exec && e->inode);
    while ((e = maps_next_named(&m, e, "[vdso]")))
        FUZZ_HOLDS(!strcmp(e->name, "[vdso]"));
    maps_release(&m);
    return 0;
}
