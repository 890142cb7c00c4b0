/* Any bytes as an ELF file; a good seed is any small shared object. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "target/elf.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct elf *e;
    struct elf_sym s;
    struct elf_segment seg;
    struct elf_tls tls;
    char name[64] = "";
    uint64_t word;
    unsigned i;
    if (elf_open_image(&e, data, size) < 0)
        return 0;
    for (i = 0; elf_segment(e, i, &seg) == 0; i++) {
        if (seg.hi < seg.lo)
            abort();
        (void)!elf_read(e, seg.lo, &word, sizeof(word));
    }
    if (elf_find(e, "mp_agent_main", &s) == 0 && s.type != STT_TLS)
        (void)!elf_read(e, s.addr, &word, sizeof(word));
    (void)!elf_find(e, "no_such_symbol", &s);
    (void)elf_addr(e, "zlibVersion");
    (void)elf_imports(e, "malloc");
    (void)!elf_tls(e, &tls);
    if (elf_soname(e, name, sizeof(name)) >= (ssize_t)sizeof(name) || !memchr(name, 0, sizeof(name)))
        abort();
    elf_free(e);
    return 0;
}
