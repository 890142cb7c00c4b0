/* The target's modules. Two sources are joined: /proc/PID/maps says which files
 * are mapped as code, and the dynamic linker's list (struct r_debug and struct
 * link_map, <link.h>; found by DT_DEBUG of the program) says which of them take
 * part in symbol lookup, in which order. The list lives in the target's memory:
 * its length is bounded and every pointer is only ever read through. */
#include "inject/view.h"

#include <ctype.h>
#include <elf.h>
#include <errno.h>
#include <link.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"
#include "target/mem.h"
#include "target/proc.h"

void view_log(const struct view *v, const char *fmt, ...)
{
    char line[UTF8_FORMAT_MAX]; /* modules' names are the target's */
    va_list ap;
    if (!v->log)
        return;
    va_start(ap, fmt);
    fprintf(v->log, "%s\n", utf8_format_into(line, sizeof(line), fmt, ap));
    va_end(ap);
}

/* --- modules from the maps ------------------------------------------------ */

static int list_modules(struct view *v)
{
    const struct maps_entry *e = NULL;
    size_t n = 0;
    while (n < VIEW_MODULES_MAX && (e = maps_next_module(&v->maps, e)))
        n++;
    v->module = calloc(n ? n : 1, sizeof(*v->module));
    if (!v->module)
        return -ENOMEM;
    for (e = NULL; v->count < n && (e = maps_next_module(&v->maps, e));) {
        v->module[v->count].part = e;
        v->module[v->count].base = maps_basename(e);
        v->count++;
    }
    e = maps_next_named(&v->maps, NULL, "[vdso]");
    if (e) {
        v->vdso_lo = e->lo;
        v->vdso_hi = e->hi;
    }
    return 0;
}

struct elf *view_elf(struct view *v, struct view_module *m)
{
    if (!m->elf && !m->elf_error) {
        m->elf_error = elf_open_mapped(&m->elf, v->pid, &v->maps, m->part);
        if (m->elf && (m->elf_error = elf_charge(m->elf, &v->budget)) < 0) {
            elf_free(m->elf);
            m->elf = NULL;
        }
        v->no_memory |= m->elf_error == -ENOMEM;
        if (m->elf_error < 0)
            view_log(v, "plan: %s cannot be read as ELF: %s", m->base, strerror(-m->elf_error));
    }
    return m->elf;
}

/* Any mapping of the module counts: link maps point into its data. */
struct view_module *view_module_at(struct view *v, raddr_t addr)
{
    const struct maps_entry *e = maps_at(&v->maps, addr);
    struct view_module *best = NULL;
    size_t i;
    if (!e)
        return NULL;
    for (i = 0; i < v->count; i++) {
        /* A file mapped twice as code (dlmopen): the copy that lies nearest. */
        const struct maps_entry *p = v->module[i].part;
        if (maps_same_file(p, e) &&
            (!best || llabs((long long)(p->lo - e->lo)) < llabs((long long)(best->part->lo - e->lo))))
            best = &v->module[i];
    }
    return best;
}

bool view_is_named(const struct view_module *m, const char *stem)
{
    size_t n = strlen(stem);
    unsigned char next;
    if (strncmp(m->base, stem, n))
        return false;
    next = (unsigned char)m->base[n];
    return next == '\0' || next == '.' || next == '-' || next == '_' || isdigit(next);
}

/* --- the dynamic linker's list -------------------------------------------- */

static raddr_t debug_of_program(struct view *v, struct view_module *m)
{
    struct elf *e = m ? view_elf(v, m) : NULL;
    uint64_t size = 0, i;
    raddr_t at = e ? elf_dynamic(e, &size) : 0;
    for (i = 0; at && i < size / sizeof(Elf64_Dyn) && i < 512; i++) {
        Elf64_Dyn d;
        if (mem_read(v->pid, at + i * sizeof(d), &d, sizeof(d)) < 0 || d.d_tag == DT_NULL)
            return 0;
        if (d.d_tag == DT_DEBUG)
            return d.d_un.d_ptr;
    }
    return 0;
}

static void walk_link_map(struct view *v)
{
    struct r_debug debug;
    raddr_t at;
    unsigned order;
    if (!v->r_debug || mem_read(v->pid, v->r_debug, &debug, sizeof(debug)) < 0)
        return;
    at = (raddr_t)(uintptr_t)debug.r_map;
    for (order = 1; at && order <= VIEW_MODULES_MAX; order++) {
        struct link_map lm; /* the public head of glibc's struct link_map */
        struct view_module *m;
        if (mem_read(v->pid, at, &lm, sizeof(lm)) < 0)
            return;
        m = view_module_at(v, (raddr_t)(uintptr_t)lm.l_ld);
        if (m && !m->link_map) {
            m->link_map = at;
            m->order = v->last_order = order;
            if (order == 1)
                v->exe = m;
        }
        at = (raddr_t)(uintptr_t)lm.l_next;
    }
}

/* The kernel's view of the program (AT_PHDR) and its interpreter (AT_BASE). When
 * ld.so was run by hand, the kernel takes ld.so for the program; its _r_debug
 * then leads to the real one. */
static int find_linker(struct view *v)
{
    char *auxv;
    size_t len;
    uint64_t phdr = 0, base = 0;
    int r = proc_read(v->pid, "auxv", &auxv, &len);
    if (r < 0)
        return r;
    if (proc_auxv_get(auxv, len, AT_PHDR, &phdr))
        v->exe = view_module_at(v, phdr);
    if (proc_auxv_get(auxv, len, AT_BASE, &base) && base)
        v->ldso = view_module_at(v, base);
    free(auxv);
    if (v->exe && !v->ldso && view_is_named(v->exe, "ld"))
        v->ldso = v->exe;
    v->r_debug = debug_of_program(v, v->exe);
    if (!v->r_debug && v->ldso && view_elf(v, v->ldso))
        v->r_debug = elf_addr(v->ldso->elf, "_r_debug");
    walk_link_map(v);
    return 0;
}

static struct view_module *module_by_order(struct view *v, unsigned order)
{
    size_t i;
    for (i = 0; i < v->count; i++)
        if (v->module[i].order == order)
            return &v->module[i];
    return NULL; /* the vdso has a place in the list and no file */
}

/* In lookup order and no further than needed: each module looked at is a file opened. */
struct view_module *view_definer(struct view *v, const char *symbol)
{
    unsigned order;
    for (order = 1; order <= v->last_order; order++) {
        struct view_module *m = module_by_order(v, order);
        struct elf_sym s;
        if (m && view_elf(v, m) && elf_find_exported(m->elf, symbol, &s) == 0)
            return m;
    }
    return NULL;
}

int view_open(struct view *v, pid_t pid, FILE *log)
{
    int r;
    *v = (struct view){.pid = pid, .log = log, .budget = VIEW_BUDGET};
    r = maps_read(&v->maps, pid);
    if (r == 0 && !v->maps.count)
        r = -ESRCH; /* no memory: a zombie or a kernel thread */
    if (r == 0)
        r = list_modules(v);
    if (r == 0 && !(v->disasm = disasm_new(disasm_read_pid, &v->pid)))
        r = -ENOMEM;
    if (r == 0)
        r = find_linker(v);
    if (r < 0)
        view_close(v);
    return r;
}

void view_close(struct view *v)
{
    size_t i;
    for (i = 0; i < v->count; i++)
        elf_free(v->module[i].elf);
    free(v->module);
    disasm_free(v->disasm);
    maps_release(&v->maps);
    *v = (struct view){0};
}
