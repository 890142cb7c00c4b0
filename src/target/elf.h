/* ELF files as a process maps them: segments, TLS, symbols by name, with
 * addresses in the target. The file is reached through the mapping itself
 * (/proc/PID/map_files), else by its path inside the target's root once it is
 * proven to be the mapped file, else the target's own memory is read. Every byte
 * is foreign: counts and offsets are bounded before use. */
#ifndef MP_ELF_H
#define MP_ELF_H

#include <elf.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"
#include "target/maps.h"
#include "target/raddr.h"

struct elf;

struct elf_sym {
    raddr_t addr;   /* load bias applied, but for STT_TLS: then the offset in the TLS block */
    uint64_t size;
    uint8_t type;   /* STT_* */
    bool exported;  /* from the dynamic symbol table */
};

struct elf_segment { /* a PT_LOAD */
    raddr_t lo, hi;  /* in the target, hi exclusive, not rounded to pages */
    uint32_t flags;  /* PF_* */
};

struct elf_tls {
    raddr_t image; /* the initialisation image, in the target */
    uint64_t filesz, memsz, align;
};

enum elf_source { ELF_FROM_MAP_FILES, ELF_FROM_ROOT, ELF_FROM_MEMORY, ELF_FROM_IMAGE };

/* Opens the module that `part` (any mapping of a file) belongs to. pid may be any
 * live thread's id; maps must outlive the result. 0; -ENOEXEC when it is no
 * 64-bit little-endian ELF that is mapped as one; -EACCES/-EPERM/-ESRCH when
 * nothing may be read; -ENOMEM, another -errno. Free with elf_free. */
int elf_open_mapped(struct elf **ret, pid_t pid, const struct maps *maps, const struct maps_entry *part)
    MP_MUST_CHECK;

/* Opens ELF bytes in our own memory, which must outlive the result. Addresses are
 * as linked (bias 0). 0, -ENOEXEC, -ENOMEM. */
int elf_open_image(struct elf **ret, const void *image, size_t len) MP_MUST_CHECK;

/* From here on what is read for e, and what has been, is taken off *budget (bytes), which
 * several share and which outlives e. What it does not suffice for is not found. 0, -E2BIG
 * when e itself is too much already. */
int elf_charge(struct elf *e, uint64_t *budget) MP_MUST_CHECK;

void elf_free(struct elf *e); /* NULL is fine */

enum elf_source elf_source(const struct elf *e);
raddr_t elf_bias(const struct elf *e);

/* A defined symbol by name, first among the exported (default version before
 * others), then in .symtab. 0; -ENOENT when there is none, or only several local
 * ones of that name; -errno when the tables cannot be read. */
int elf_find(struct elf *e, const char *name, struct elf_sym *ret) MP_MUST_CHECK;

/* As elf_find, but among the exported only: what the dynamic linker would find. */
int elf_find_exported(struct elf *e, const char *name, struct elf_sym *ret) MP_MUST_CHECK;

/* Address of a symbol that is no TLS symbol, no IFUNC and lies in a PT_LOAD of the
 * module; 0 when there is none. */
raddr_t elf_addr(struct elf *e, const char *name);

/* Whether the exported table asks for this symbol from elsewhere (undefined). */
bool elf_imports(struct elf *e, const char *name);

/* PT_LOAD number i. 0, or -ENOENT past the last. */
int elf_segment(const struct elf *e, unsigned i, struct elf_segment *ret) MP_MUST_CHECK;

/* PT_TLS. 0, or -ENOENT. */
int elf_tls(const struct elf *e, struct elf_tls *ret) MP_MUST_CHECK;

/* PT_DYNAMIC's address in the target, 0 when there is none. *ret_size (may be NULL): its bytes. */
raddr_t elf_dynamic(const struct elf *e, uint64_t *ret_size);

bool elf_has_interp(const struct elf *e);

/* DT_SONAME into buf. Its length, or -ENOENT, -errno. */
ssize_t elf_soname(struct elf *e, char *ret_buf, size_t size) MP_MUST_CHECK;

/* Exactly len bytes at a target address inside the module: from the target's
 * memory, or from the image's bytes. 0, -EFAULT, another -errno. */
int elf_read(const struct elf *e, raddr_t at, void *ret_buf, size_t len) MP_MUST_CHECK;

/* Class and machine (EM_*) of the running executable, from /proc/PID/exe. 0,
 * -ENOEXEC, -errno. */
int elf_exe_machine(pid_t pid, unsigned *ret_class, unsigned *ret_machine) MP_MUST_CHECK;

#endif
