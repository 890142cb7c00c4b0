/* Any bytes as a target's memory: a module that must be read from there (ELF headers,
 * dynamic section, hash tables), libc and CPython recognised in it (symbols, code that is
 * evaluated, descriptors, TLS), and the dynamic linker's list. The "target" is this process,
 * and its one mapping, listed in maps of our own making, holds the input.
 *
 * The first byte: how the module is called, and where its segments lie. */
#include <unistd.h>

#include "inject/view.c" /* for its own functions: the linker's list has no other way in */

#include "fuzz.h"
#include "inject/libc.h"
#include "inject/plan.h"
#include "inject/python.h"

#define ROOM (64u << 10)

static unsigned char *memory;
static size_t dirty;

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    memory = fuzz_map(ROOM, PROT_READ | PROT_WRITE);
    return 0;
}

static const char *const names[] = {"libc.so.6", "libc-2.31.so", "libpython3.11.so.1.0", "python3.13t"};

/* Deleted: no file of that name is looked for, only memory is left. */
static int list(struct view *v, const char *name)
{
    char text[512];
    uint64_t lo = (uintptr_t)memory, data = lo + ROOM / 2;

    snprintf(text, sizeof(text),
             "%lx-%lx r-xp 00000000 00:01 7 /fuzz/%s (deleted)\n"
             "%lx-%lx rw-p 00008000 00:01 7 /fuzz/%s (deleted)\n",
             (unsigned long)lo, (unsigned long)data, name, (unsigned long)data, (unsigned long)(lo + ROOM), name);
    if (maps_parse(&v->maps, text, strlen(text)) < 0)
        return -ENOMEM;
    v->disasm = disasm_new(disasm_read_pid, &v->pid);
    return v->disasm ? list_modules(v) : -ENOMEM;
}

static void check_elf(struct view *v, struct elf *e)
{
    struct elf_segment s;
    struct elf_tls tls;
    char soname[32] = "";
    raddr_t at;
    uint64_t size;

    for (unsigned i = 0; elf_segment(e, i, &s) == 0; i++)
        FUZZ_HOLDS(s.hi >= s.lo);
    (void)elf_dynamic(e, &size);
    (void)!elf_tls(e, &tls);
    FUZZ_HOLDS(elf_soname(e, soname, sizeof(soname)) < (ssize_t)sizeof(soname) && memchr(soname, 0, sizeof(soname)));
    (void)elf_imports(e, "malloc");
    at = elf_addr(e, "malloc");
    FUZZ_HOLDS(!view_definer(v, "malloc") || !v->last_order || v->module[0].order);
    (void)at;
}

static void check_libc(struct view *v)
{
    static struct inject_plan p;
    struct mp_failure f = {0};
    struct libc_id id;
    int r;

    p = (struct inject_plan){.ns_pid = 5};
    libc_identify(v, &id);
    FUZZ_HOLDS(id.name);
    if (id.kind != LIBC_GLIBC)
        return;
    r = libc_fill(v, &id, &p, &f);
    FUZZ_HOLDS(r <= 0 && p.unsafe_count <= PLAN_UNSAFE_MAX && p.tls_count <= PLAN_TLS_MAX);
    FUZZ_HOLDS(p.tls_size <= MP_RAW_TLS_SIZE - 4 * MP_PAGE);
    for (unsigned i = 0; i < p.tls_count; i++)
        FUZZ_HOLDS(p.tls[i].memsz <= p.tls[i].tp_offset && p.tls[i].filesz <= p.tls[i].memsz);
    fuzz_shown(f.message, strlen(f.message), 0);
}

static void check_python(struct view *v)
{
    uint64_t addr[MP_PY_SYM_COUNT];
    struct plan_range ranges[PLAN_RETRIES_MAX];
    struct python_id id;
    unsigned n;

    python_identify(v, &id);
    if (id.kind != PYTHON_CPYTHON)
        return;
    FUZZ_HOLDS(python_resolve(v, &id, addr) <= MP_PY_SYM_COUNT);
    FUZZ_HOLDS(python_wait_ranges(v, &id, ranges, PLAN_RETRIES_MAX) <= PLAN_RETRIES_MAX);
    FUZZ_HOLDS(python_switch_interval(v, &id) % sizeof(uint64_t) == 0); /* written to, in one piece */
    n = python_gil_ranges(v, &id, ranges, PLAN_RETRIES_MAX);
    FUZZ_HOLDS(n <= PLAN_RETRIES_MAX);
    for (unsigned i = 0; i < n; i++)
        FUZZ_HOLDS(ranges[i].lo <= ranges[i].hi);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_in in = {data, size};
    unsigned how = fuzz_u8(&in);
    struct view v = {.pid = getpid(), .budget = VIEW_BUDGET};
    size_t n;

    memset(memory, 0, dirty);
    n = fuzz_take(&in, memory, in.left < ROOM ? in.left : ROOM);
    dirty = n;
    FUZZ_HOLDS(list(&v, names[how % 4]) == 0 && v.count == 1);
    v.exe = how & 4 ? &v.module[0] : NULL;
    v.ldso = how & 8 ? &v.module[0] : NULL;
    v.r_debug = debug_of_program(&v, &v.module[0]);
    if (!v.r_debug)
        v.r_debug = (uintptr_t)memory + 0x800;
    walk_link_map(&v);
    if (view_elf(&v, &v.module[0]))
        check_elf(&v, v.module[0].elf);
    FUZZ_HOLDS(v.module[0].elf_error != -E2BIG); /* the budget is for many, and for files */
    check_libc(&v);
    check_python(&v);
    view_close(&v);
    return 0;
}
