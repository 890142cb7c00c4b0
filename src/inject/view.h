/* A target's loaded modules as the injection planner sees them: the mapped files,
 * joined with the dynamic linker's own list. Gathered once, without stopping the
 * target; modules' ELF files are opened when first asked for. */
#ifndef MP_VIEW_H
#define MP_VIEW_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/types.h>

#include "base/err.h"
#include "target/disasm.h"
#include "target/elf.h"
#include "target/maps.h"
#include "target/raddr.h"

#define VIEW_MODULES_MAX 4096
#define VIEW_BUDGET (512u << 20) /* bytes of symbol tables of all modules: a target may map as many files as it likes */

struct view_module {
    const struct maps_entry *part; /* its first executable mapping */
    const char *base;              /* file name without folders; lives as long as the view */
    raddr_t link_map;              /* its struct link_map; 0: not on the main list */
    unsigned order;                /* position in that list from 1 on: symbol lookup order; 0: not on it */
    struct elf *elf;               /* see view_elf */
    int elf_error;                 /* why it could not be opened */
};

struct view {
    pid_t pid;       /* a live thread of the target: memory is read through it */
    struct maps maps;
    struct disasm *disasm;
    FILE *log;       /* -v text; may be NULL */
    uint64_t budget; /* what is left of VIEW_BUDGET */
    bool no_memory;  /* for something that was asked: what is not found may be there */
    struct view_module *module;
    size_t count;
    struct view_module *exe;  /* the program, as the dynamic linker sees it; NULL: none could be told */
    struct view_module *ldso; /* the dynamic linker; NULL: the program is static */
    unsigned last_order;      /* highest order given */
    raddr_t r_debug;          /* struct r_debug (link.h); 0 when there is none */
    raddr_t vdso_lo, vdso_hi; /* 0 when there is none */
};

/* pid must be a live thread whose memory may be read. Returns 0 (release with
 * view_close), -EACCES, -ESRCH, -ENOMEM, another -errno. */
int view_open(struct view *v, pid_t pid, FILE *log) MP_MUST_CHECK;
void view_close(struct view *v); /* harmless on a zeroed or closed struct */

/* The module's ELF file, opened on first use; NULL when it cannot be (elf_error). */
struct elf *view_elf(struct view *v, struct view_module *m);

/* The module that addr lies in, or NULL. */
struct view_module *view_module_at(struct view *v, raddr_t addr);

/* The module on the dynamic linker's list that a lookup of this name binds to, or NULL. */
struct view_module *view_definer(struct view *v, const char *symbol);

/* Whether the file name is stem followed by '.', '-', '_', a digit or its end
 * ("libc" fits "libc.so.6" and "libc-2.31.so", not "libcrypt.so"). */
bool view_is_named(const struct view_module *m, const char *stem);

void view_log(const struct view *v, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif
