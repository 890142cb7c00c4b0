/* Any bytes as an ELF file on disk, read with libelf. The same bytes as a target's
 * memory: fuzz_module.c. */
#include "fuzz.h"

#include "target/elf.h"

static void check_symbol(struct elf *e, const char *name)
{
    struct elf_sym s = {0};
    uint64_t word;
    raddr_t at = elf_addr(e, name);

    if (at)
        FUZZ_HOLDS(elf_find(e, name, &s) == 0 && s.addr == at && s.type != STT_TLS && s.type != STT_GNU_IFUNC);
    if (elf_find_exported(e, name, &s) == 0)
        FUZZ_HOLDS(s.exported);
    if (at)
        (void)!elf_read(e, at, &word, sizeof(word));
    (void)elf_imports(e, name);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const names[] = {"mp_agent_main", "errno", "no_such_symbol", "malloc", ""};
    struct elf *e;
    struct elf_segment seg;
    struct elf_tls tls;
    char name[64] = "";
    uint64_t word, len;

    if (elf_open_image(&e, data, size) < 0)
        return 0;
    for (unsigned i = 0; elf_segment(e, i, &seg) == 0; i++) {
        FUZZ_HOLDS(seg.hi >= seg.lo);
        (void)!elf_read(e, seg.lo, &word, sizeof(word));
        (void)!elf_read(e, seg.hi - sizeof(word), &word, sizeof(word));
    }
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        check_symbol(e, names[i]);
    (void)!elf_tls(e, &tls);
    (void)elf_dynamic(e, &len);
    (void)elf_has_interp(e);
    FUZZ_HOLDS(elf_soname(e, name, sizeof(name)) < (ssize_t)sizeof(name) && memchr(name, 0, sizeof(name)));
    elf_free(e);
    return 0;
}
