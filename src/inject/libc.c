/* glibc, seen from outside.
 *
 * Nothing is assumed about its private layout that can be read from it:
 *   - where `tid` lies in struct pthread and where a link map keeps its TLS offset
 *     is told by the descriptors that glibc exports for thread debuggers
 *     (nptl_db/structs.def; GLIBC_PRIVATE, in libpthread before 2.34);
 *   - libc's own TLS offset is told twice, by its link map and by the GOT slot
 *     that __errno_location adds to %fs:0, and both must agree;
 *   - code that is borrowed (syscall, sigreturn, exit) is found by decoding. */
#include "inject/libc.h"

#include <errno.h>
#include <link.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "target/mem.h"
#include "target/proc.h"

#define RTLD_NOW_FLAG 2u
#define DLOPEN_MODE_FLAG 0x80000000u /* __RTLD_DLOPEN, include/dlfcn.h of glibc */

/* --- which library -------------------------------------------------------- */

static struct view_module *find_named(struct view *v, const char *stem)
{
    size_t i;
    struct view_module *found = NULL;
    for (i = 0; i < v->count; i++) {
        struct view_module *m = &v->module[i];
        if (view_is_named(m, stem) && (!found || (m->link_map && !found->link_map)))
            found = m; /* a copy outside the main list belongs to another namespace */
    }
    return found;
}

static struct view_module *find_glibc(struct view *v)
{
    struct view_module *m = find_named(v, "libc");
    if (m && view_elf(v, m) && elf_addr(m->elf, "gnu_get_libc_version"))
        return m;
    return view_definer(v, "gnu_get_libc_version"); /* under a name of its own */
}

bool libc_version_parse(const char *text, unsigned *ret_major, unsigned *ret_minor)
{
    char *end, *end2;
    unsigned long major = strtoul(text, &end, 10), minor;
    if (end == text || *end != '.' || text[0] < '0' || text[0] > '9')
        return false;
    minor = strtoul(end + 1, &end2, 10);
    if (end2 == end + 1 || end[1] < '0' || end[1] > '9' || major > 99 || minor > 999)
        return false;
    *ret_major = (unsigned)major;
    *ret_minor = (unsigned)minor;
    return true;
}

/* gnu_get_libc_version returns a pointer to "2.36"; when it does so in a way the
 * evaluator does not follow, the file's name may still tell (libc-2.31.so). */
static void read_version(struct view *v, struct libc_id *id)
{
    struct disasm_value at;
    char text[32];
    raddr_t fn = elf_addr(id->libc->elf, "gnu_get_libc_version");
    if (fn && disasm_eval(v->disasm, fn, &at) == 0 && !at.tp_relative &&
        mem_read_string(v->pid, at.value, text, sizeof(text)) > 0 &&
        libc_version_parse(text, &id->major, &id->minor))
        return;
    if (!strncmp(id->libc->base, "libc-", 5))
        (void)!libc_version_parse(id->libc->base + 5, &id->major, &id->minor);
}

static bool looks_like_musl(const struct view_module *m)
{
    return view_is_named(m, "ld-musl") || view_is_named(m, "libc.musl");
}

void libc_identify(struct view *v, struct libc_id *ret)
{
    struct libc_id id = {.name = ""};
    size_t i;
    for (i = 0; i < v->count && id.kind == LIBC_NONE; i++) {
        if (looks_like_musl(&v->module[i])) {
            id.kind = LIBC_MUSL;
            id.name = v->module[i].base;
        }
    }
    if (id.kind == LIBC_NONE && (id.libc = find_glibc(v))) {
        id.kind = LIBC_GLIBC;
        id.name = id.libc->base;
        read_version(v, &id);
        id.pthread = find_named(v, "libpthread");
        id.dl = find_named(v, "libdl");
    } else if (id.kind == LIBC_NONE && !v->ldso) {
        id.kind = LIBC_STATIC;
        id.name = v->exe ? v->exe->base : "";
    } else if (id.kind == LIBC_NONE) {
        id.kind = LIBC_OTHER;
        id.name = v->ldso->base;
    }
    *ret = id;
}

/* --- functions ------------------------------------------------------------ */

static raddr_t addr_in(struct view *v, struct view_module *m, const char *name)
{
    return m && view_elf(v, m) ? elf_addr(m->elf, name) : 0;
}

/* Before 2.34 libc has forwarders of some of these; the true ones come first. */
static raddr_t thread_fn(struct view *v, const struct libc_id *id, const char *name)
{
    raddr_t at = addr_in(v, id->pthread, name);
    return at ? at : addr_in(v, id->libc, name);
}

/* Where the destructors of pthread keys are looked for, should the raw thread have any. */
static int fill_keys(struct view *v, const struct libc_id *id, struct mp_boot *b, struct mp_failure *f)
{
    struct view_module *m = addr_in(v, id->pthread, "pthread_key_create") ? id->pthread : id->libc;
    struct elf_segment s;
    unsigned i;
    for (i = 0; elf_segment(m->elf, i, &s) == 0; i++) {
        if (s.flags & PF_W) {
            b->keys_lo = s.lo & ~7ull;
            b->keys_hi = s.hi & ~7ull;
            return 0;
        }
    }
    return mp_fail(f, MP_E_LIBC_LAYOUT, 0, "%s has no writable segment", m->base);
}

static int fill_thread_functions(struct view *v, const struct libc_id *id, struct mp_boot *b, struct mp_failure *f)
{
    static const struct {
        const char *name;
        size_t at;
    } rows[] = {
        {"pthread_create", offsetof(struct mp_boot, fn_pthread_create)},
        {"pthread_attr_init", offsetof(struct mp_boot, fn_pthread_attr_init)},
        {"pthread_attr_destroy", offsetof(struct mp_boot, fn_pthread_attr_destroy)},
        {"pthread_attr_setstack", offsetof(struct mp_boot, fn_pthread_attr_setstack)},
        {"pthread_attr_setdetachstate", offsetof(struct mp_boot, fn_pthread_attr_setdetachstate)},
        {"pthread_key_create", offsetof(struct mp_boot, fn_pthread_key_create)},
        {"pthread_key_delete", offsetof(struct mp_boot, fn_pthread_key_delete)},
        {"pthread_getspecific", offsetof(struct mp_boot, fn_pthread_getspecific)},
        {"pthread_setspecific", offsetof(struct mp_boot, fn_pthread_setspecific)},
        {"clock_gettime", offsetof(struct mp_boot, fn_clock_gettime)},
    };
    size_t i;
    for (i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        uint64_t at = thread_fn(v, id, rows[i].name);
        if (!at)
            return mp_fail(f, MP_E_LIBC, 0, "%s has no %s%s", id->name, rows[i].name,
                           id->minor < 34 ? " (libpthread is not loaded)" : "");
        memcpy((char *)b + rows[i].at, &at, sizeof(at));
    }
    b->fn_call_tls_dtors = addr_in(v, id->libc, "__call_tls_dtors");
    return fill_keys(v, id, b, f);
}

/* glibc 2.34 and later: libc. Before: libdl when it is loaded, else what libc keeps
 * for itself, which wants a flag of its own and has no dlerror. */
static int fill_dl_functions(struct view *v, const struct libc_id *id, struct mp_boot *b, struct mp_failure *f)
{
    struct view_module *m = addr_in(v, id->libc, "dlopen") ? id->libc : id->dl;
    b->dlopen_flags = RTLD_NOW_FLAG;
    b->fn_dlopen = addr_in(v, m, "dlopen");
    b->fn_dlclose = addr_in(v, m, "dlclose");
    b->fn_dlerror = addr_in(v, m, "dlerror");
    if (!b->fn_dlopen || !b->fn_dlclose) {
        b->fn_dlopen = addr_in(v, id->libc, "__libc_dlopen_mode");
        b->fn_dlclose = addr_in(v, id->libc, "__libc_dlclose");
        b->fn_dlerror = 0;
        b->dlopen_flags |= DLOPEN_MODE_FLAG;
    }
    if (!b->fn_dlopen || !b->fn_dlclose)
        return mp_fail(f, MP_E_LIBC, 0, "%s has neither dlopen nor __libc_dlopen_mode", id->name);
    return 0;
}

/* --- code that is borrowed ------------------------------------------------- */

typedef int (*search_fn)(struct disasm *d, raddr_t lo, raddr_t hi, raddr_t *ret);

static raddr_t search_module(struct view *v, struct view_module *m, search_fn search)
{
    struct elf_segment s;
    raddr_t at;
    unsigned i;
    int r = -ENOENT;
    if (!m || !view_elf(v, m))
        return 0;
    for (i = 0; r != 0 && elf_segment(m->elf, i, &s) == 0; i++) {
        if (s.flags & PF_X)
            r = search(v->disasm, s.lo, s.hi, &at);
        v->no_memory |= r == -ENOMEM;
    }
    return r == 0 ? at : 0;
}

static raddr_t search_libc(struct view *v, const struct libc_id *id, search_fn search)
{
    raddr_t at = search_module(v, id->libc, search);
    if (!at)
        at = search_module(v, id->pthread, search);
    return at ? at : search_module(v, v->ldso, search);
}

static int fill_gadgets(struct view *v, const struct libc_id *id, struct inject_plan *p, struct mp_failure *f)
{
    p->syscall_insn = search_libc(v, id, disasm_find_syscall_ret);
    p->restore_rt = search_libc(v, id, disasm_find_sigreturn);
    p->boot.exit_gadget = search_libc(v, id, disasm_find_exit_gadget);
    if (!p->syscall_insn || !p->restore_rt || !p->boot.exit_gadget)
        return mp_fail(f, MP_E_LIBC_LAYOUT, 0, "no %s is found in the code of %s %u.%u",
                       !p->syscall_insn ? "`syscall; ret`" : !p->restore_rt ? "signal return stub" : "exit(2) loop",
                       id->name, id->major, id->minor);
    return 0;
}

/* --- thread-debugger descriptors ------------------------------------------ */

bool libc_descriptor_parse(const void *bytes, uint32_t bits, uint32_t *ret_offset)
{
    uint32_t d[3]; /* size in bits, number of elements, offset in bytes */
    memcpy(d, bytes, sizeof(d));
    if (d[0] != bits || d[1] != 1 || d[2] > 65536 || d[2] % (bits / 8))
        return false;
    *ret_offset = d[2];
    return true;
}

static bool read_descriptor(struct view *v, const struct libc_id *id, const char *name, uint32_t bits,
                            uint32_t *ret_offset)
{
    unsigned char bytes[12];
    raddr_t at = thread_fn(v, id, name);
    return at && mem_read(v->pid, at, bytes, sizeof(bytes)) == 0 && libc_descriptor_parse(bytes, bits, ret_offset);
}

/* Without the descriptor: a thread control block is a word that points at itself,
 * with a second pointer to itself 16 bytes on (tcbhead_t of x86-64: tcb, dtv,
 * self), and `tid` is the first int above it that equals the thread's id. */
static bool scan_block(const unsigned char *buf, size_t len, raddr_t at, pid_t tid, uint32_t *ret_offset)
{
    size_t i, k;
    for (i = 0; i + 0x800 <= len; i += 64) {
        uint64_t word[3];
        memcpy(word, buf + i, sizeof(word));
        if (word[0] != at + i || word[2] != at + i)
            continue;
        for (k = 0x80; k < 0x800; k += 4) {
            int32_t id;
            memcpy(&id, buf + i + k, sizeof(id));
            if (id == tid) {
                *ret_offset = (uint32_t)k;
                return true;
            }
        }
    }
    return false;
}

bool libc_scan_tid(struct view *v, pid_t tid, uint32_t *ret_offset)
{
    enum { BLOCK = 1 << 20 };
    unsigned char *buf = malloc(BLOCK);
    size_t i;
    bool found = false;
    v->no_memory |= !buf;
    for (i = 0; buf && i < v->maps.count && !found; i++) {
        const struct maps_entry *e = &v->maps.entry[i];
        ssize_t n;
        /* The main thread's block lies in a small anonymous mapping beside ld.so's. */
        if (e->inode || !e->write || !e->read || e->hi - e->lo > BLOCK)
            continue;
        n = mem_read_some(v->pid, e->lo, buf, (size_t)(e->hi - e->lo));
        found = n > 0 && scan_block(buf, (size_t)n, e->lo, tid, ret_offset);
    }
    free(buf);
    return found;
}

static int fill_tid_offset(struct view *v, const struct libc_id *id, struct inject_plan *p, struct mp_failure *f)
{
    if (read_descriptor(v, id, "_thread_db_pthread_tid", 32, &p->boot.tid_offset))
        return 0;
    if (p->ns_pid > 0 && libc_scan_tid(v, p->ns_pid, &p->boot.tid_offset)) {
        view_log(v, "plan: no _thread_db_pthread_tid; tid found at %#x of struct pthread by scanning",
                 p->boot.tid_offset);
        return 0;
    }
    return mp_fail(f, MP_E_LIBC_LAYOUT, 0, "where %s %u.%u keeps a thread's id is not known", id->name, id->major,
                   id->minor);
}

/* --- static TLS ----------------------------------------------------------- */

/* Offset of errno from the thread pointer, minus errno's place in libc's block. */
static int errno_tls_offset(struct view *v, const struct libc_id *id, uint64_t *ret, struct mp_failure *f)
{
    struct elf_sym s;
    struct disasm_value where;
    raddr_t fn = addr_in(v, id->libc, "__errno_location");
    if (!fn || disasm_eval(v->disasm, fn, &where) < 0 || !where.tp_relative)
        return mp_fail(f, MP_E_LIBC_LAYOUT, 0, "__errno_location of %s %u.%u is not of a known form", id->name,
                       id->major, id->minor);
    if (elf_find(id->libc->elf, "errno", &s) < 0 || s.type != STT_TLS)
        return mp_fail(f, MP_E_LIBC_LAYOUT, 0, "%s %u.%u has no symbol for errno", id->name, id->major, id->minor);
    *ret = s.addr - where.value; /* the block begins this far below the TCB */
    return 0;
}

static int add_tls(struct inject_plan *p, const struct elf_tls *t, uint64_t tp_offset, const char *name,
                   struct mp_failure *f)
{
    struct plan_tls *row = &p->tls[p->tls_count];
    /* struct pthread lies above the TCB and takes less than four pages. */
    if (tp_offset > MP_RAW_TLS_SIZE - 4 * MP_PAGE || t->memsz > tp_offset)
        return mp_fail(f, MP_E_LIBC_LAYOUT, 0, "static TLS of %s (%lu bytes at %lu) does not fit", name,
                       (unsigned long)t->memsz, (unsigned long)tp_offset);
    if (p->tls_count == PLAN_TLS_MAX)
        return mp_fail(f, MP_E_LIBC_LAYOUT, 0, "more than %d modules have static TLS", PLAN_TLS_MAX);
    *row = (struct plan_tls){t->image, t->filesz, t->memsz, tp_offset};
    p->tls_count++;
    if (tp_offset > p->tls_size)
        p->tls_size = tp_offset;
    return 0;
}

/* l_tls_offset is 0 for a module without static TLS and -1 for one that was given
 * dynamic TLS for good (elf/dl-tls.h: NO_TLS_OFFSET, FORCED_DYNAMIC_TLS_OFFSET). */
static bool has_static_tls(struct view *v, const struct view_module *m, uint32_t field, uint64_t *ret)
{
    return m->link_map && mem_read(v->pid, m->link_map + field, ret, sizeof(*ret)) == 0 && *ret && *ret + 1;
}

static int fill_tls_all(struct view *v, const struct libc_id *id, uint32_t field, uint64_t libc_offset,
                        struct inject_plan *p, struct mp_failure *f)
{
    size_t i;
    for (i = 0; i < v->count; i++) {
        struct view_module *m = &v->module[i];
        struct elf_tls t;
        uint64_t offset = 0;
        int r;
        if (m != id->libc && !has_static_tls(v, m, field, &offset))
            continue;
        if (m == id->libc && (!has_static_tls(v, m, field, &offset) || offset != libc_offset))
            return mp_fail(f, MP_E_LIBC_LAYOUT, 0, "two accounts of %s's TLS offset differ: %#lx and %#lx", id->name,
                           (unsigned long)offset, (unsigned long)libc_offset);
        if (m != id->libc && view_elf(v, m) && elf_tls(m->elf, &t) == -ENOENT)
            continue; /* unloaded meanwhile, and its link map is somebody else's memory by now */
        if (!view_elf(v, m) || elf_tls(m->elf, &t) < 0)
            return mp_fail(f, MP_E_LIBC_LAYOUT, 0, "the TLS image of %s cannot be read", m->base);
        r = add_tls(p, &t, offset, m->base, f);
        if (r < 0)
            return r;
    }
    return 0;
}

/* The raw thread calls pthread_create, which calls malloc: whoever provides malloc
 * must find its TLS there. */
static struct view_module *foreign_malloc(struct view *v, const struct libc_id *id)
{
    struct view_module *m = view_definer(v, "malloc");
    return m && m != id->libc && m != v->ldso ? m : NULL;
}

static int fill_tls(struct view *v, const struct libc_id *id, struct inject_plan *p, struct mp_failure *f)
{
    struct view_module *mallocs = foreign_malloc(v, id);
    struct elf_tls t;
    uint64_t offset = 0;
    uint32_t field;
    int r = errno_tls_offset(v, id, &offset, f);
    if (r < 0)
        return r;
    if (read_descriptor(v, id, "_thread_db_link_map_l_tls_offset", 64, &field))
        return fill_tls_all(v, id, field, offset, p, f);
    if (mallocs && view_elf(v, mallocs) && elf_tls(mallocs->elf, &t) == 0)
        return mp_fail(f, MP_E_LIBC_LAYOUT, 0, "malloc is %s's, whose thread-local storage cannot be located",
                       mallocs->base);
    if (elf_tls(id->libc->elf, &t) < 0)
        return mp_fail(f, MP_E_LIBC_LAYOUT, 0, "%s has no TLS segment", id->name);
    return add_tls(p, &t, offset, id->name, f);
}

/* --- where a thread must not be borrowed ----------------------------------- */

static int add_range(struct inject_plan *p, raddr_t lo, raddr_t hi, const char *what, bool stack_too,
                     struct mp_failure *f)
{
    if (p->unsafe_count == PLAN_UNSAFE_MAX)
        return mp_fail(f, MP_E_LIBC_LAYOUT, 0, "more than %d pieces of allocator and libc code", PLAN_UNSAFE_MAX);
    p->unsafe[p->unsafe_count++] = (struct plan_range){lo, hi, what, stack_too};
    return 0;
}

static int add_module_text(struct view *v, struct view_module *m, struct inject_plan *p, const char *what,
                           bool stack_too, struct mp_failure *f)
{
    struct elf_segment s;
    unsigned i;
    int r = 0;
    if (!view_elf(v, m))
        return add_range(p, m->part->lo, m->part->hi, what, stack_too, f);
    for (i = 0; r == 0 && elf_segment(m->elf, i, &s) == 0; i++)
        if (s.flags & PF_X)
            r = add_range(p, s.lo, s.hi, what, stack_too, f);
    return r;
}

static const struct {
    const char *stem, *what;
    bool stack_too;
} unsafe_rows[] = {
    {"libc", "libc", false},           {"libpthread", "libpthread", false}, {"ld-linux-x86-64", "ld.so", true},
    {"ld", "ld.so", true},             {"libjemalloc", "jemalloc", true},   {"libtcmalloc", "tcmalloc", true},
    {"libtcmalloc_minimal", "tcmalloc", true}, {"libmimalloc", "mimalloc", true},
    {"libmimalloc-secure", "mimalloc", true},
    {"librpmalloc", "rpmalloc", true}, {"libsnmallocshim", "snmalloc", true}, {"libhoard", "hoard", true},
};

static int fill_unsafe(struct view *v, const struct libc_id *id, struct inject_plan *p, struct mp_failure *f)
{
    struct view_module *mallocs = foreign_malloc(v, id);
    size_t i, k;
    int r = 0;
    for (i = 0; r == 0 && i < v->count; i++) {
        struct view_module *m = &v->module[i];
        const char *what = m == mallocs ? "the module that provides malloc" : NULL;
        /* A program that brings its own malloc is on every stack: only its PC can be judged. */
        bool stack_too = m != v->exe;
        for (k = 0; k < sizeof(unsafe_rows) / sizeof(unsafe_rows[0]); k++) {
            if (view_is_named(m, unsafe_rows[k].stem)) {
                what = unsafe_rows[k].what;
                stack_too = unsafe_rows[k].stack_too;
            }
        }
        if (m == id->libc || m == v->ldso) {
            what = m == v->ldso ? "ld.so" : "libc";
            stack_too = m == v->ldso;
        }
        if (what)
            r = add_module_text(v, m, p, what, stack_too, f);
    }
    if (r == 0 && v->vdso_hi)
        r = add_range(p, v->vdso_lo, v->vdso_hi, "vdso", false, f);
    return r;
}

int libc_fill(struct view *v, const struct libc_id *id, struct inject_plan *p, struct mp_failure *f)
{
    int r = fill_thread_functions(v, id, &p->boot, f);
    if (r == 0)
        r = fill_dl_functions(v, id, &p->boot, f);
    if (r == 0)
        r = fill_gadgets(v, id, p, f);
    if (r == 0)
        r = fill_tid_offset(v, id, p, f);
    if (r == 0)
        r = fill_tls(v, id, p, f);
    if (r == 0)
        r = fill_unsafe(v, id, p, f);
    if (r == 0 && v->r_debug)
        p->r_state = v->r_debug + offsetof(struct r_debug, r_state);
    p->single_threaded = addr_in(v, id->libc, "__libc_single_threaded"); /* a program's copy of it is another byte */
    p->facts.glibc_major = id->major;
    p->facts.glibc_minor = id->minor;
    return r;
}
