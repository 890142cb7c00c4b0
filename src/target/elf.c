/* ELF reading with libelf where there is a file, by PT_DYNAMIC where there is
 * only memory.
 *
 * Load bias: an executable mapping [lo, hi) at file offset O lies inside the
 * segment with PF_X whose file range holds O; then
 *     bias = lo - (p_vaddr + (O - p_offset)).
 * That holds for shared objects, PIE (bias = base) and non-PIE (bias = 0), and
 * for mappings that mprotect has split. */
#include "target/elf.h"

#include <errno.h>
#include <fcntl.h>
#include <gelf.h>
#include <libelf.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "target/mem.h"
#include "target/proc.h"

enum {
    PAGE = 4096,
    PHDRS_MAX = 256,          /* glibc's own objects have 14 */
    DYNAMIC_MAX = 4096,       /* entries of a dynamic section */
    MEMORY_SYMS_MAX = 1 << 20, /* symbols taken from a target's memory */
    MEMORY_STR_MAX = 64 << 20,
    SECTION_COST = 512,       /* bytes that libelf takes for a section, and its header */
    SECTION_MAX = 256 << 20   /* bytes of a table taken from a file, which may be sparse and endless */
};

/* One symbol table and its strings. A hostile file may place them at odd offsets:
 * entries are copied out, never pointed at. */
struct table {
    const unsigned char *sym; /* count entries of Elf64_Sym */
    size_t count;
    const char *str;
    size_t strsz;
    const unsigned char *versym; /* NULL, or 16 bits per symbol; bit 15: not the default version */
    void *owned[3];         /* what came from a target's memory */
    bool loaded;
};

struct elf {
    pid_t pid; /* 0: an image of our own */
    enum elf_source source;
    int fd;
    Elf *lib; /* NULL when only memory can be read */
    const unsigned char *image;
    size_t image_len;
    raddr_t bias;
    Elf64_Phdr *ph;
    unsigned ph_count;
    struct table dynamic, full;
    const struct maps *maps;
    uint64_t *budget; /* bytes that may still be read of symbol tables; NULL: no bound but each one's own */
};

static bool spend(const struct elf *e, uint64_t bytes)
{
    if (!e->budget)
        return true;
    if (bytes > *e->budget)
        return false;
    *e->budget -= bytes;
    return true;
}

/* --- headers -------------------------------------------------------------- */

static bool ident_fits(const unsigned char *id)
{
    return !memcmp(id, ELFMAG, SELFMAG) && id[EI_CLASS] == ELFCLASS64 && id[EI_DATA] == ELFDATA2LSB;
}

static bool header_fits(const Elf64_Ehdr *h)
{
    return ident_fits(h->e_ident) && h->e_phentsize == sizeof(Elf64_Phdr) && h->e_phnum > 0 &&
           h->e_phnum <= PHDRS_MAX && (h->e_type == ET_DYN || h->e_type == ET_EXEC);
}

/* Judged before libelf sees the file: it makes room for as many program headers and
 * sections as section 0 says, when the header has no place for the number. 65,279 of them
 * are what the header alone can ask for. */
static bool counts_fit(const Elf64_Ehdr *h)
{
    return header_fits(h) && (h->e_shnum || !h->e_shoff);
}

/* A PT_LOAD whose arithmetic cannot wrap. */
static bool load_fits(const Elf64_Phdr *p)
{
    return p->p_type == PT_LOAD && p->p_filesz <= p->p_memsz && p->p_vaddr + p->p_memsz >= p->p_vaddr &&
           p->p_offset + p->p_filesz >= p->p_offset;
}

static int take_phdrs(struct elf *e, const Elf64_Phdr *ph, unsigned count)
{
    e->ph = calloc(count, sizeof(*ph));
    if (!e->ph)
        return -ENOMEM;
    memcpy(e->ph, ph, count * sizeof(*ph));
    e->ph_count = count;
    return 0;
}

static int load_headers_lib(struct elf *e)
{
    GElf_Ehdr h;
    const Elf64_Phdr *ph;
    size_t count, id_len;
    const char *id;
    if (!e->lib || elf_kind(e->lib) != ELF_K_ELF)
        return -ENOEXEC;
    id = elf_getident(e->lib, &id_len);
    if (!id || id_len < EI_NIDENT || !ident_fits((const unsigned char *)id))
        return -ENOEXEC;
    ph = elf64_getphdr(e->lib);
    if (!gelf_getehdr(e->lib, &h) || !ph || !header_fits(&h) || elf_getphdrnum(e->lib, &count) ||
        !count || count > PHDRS_MAX)
        return -ENOEXEC;
    return take_phdrs(e, ph, (unsigned)count);
}

static int load_headers_memory(struct elf *e, raddr_t base)
{
    Elf64_Ehdr h;
    Elf64_Phdr ph[PHDRS_MAX];
    int r = mem_read(e->pid, base, &h, sizeof(h));
    if (r < 0)
        return r;
    if (!header_fits(&h) || h.e_phoff > PAGE * 16)
        return -ENOEXEC;
    r = mem_read(e->pid, base + h.e_phoff, ph, h.e_phnum * sizeof(ph[0]));
    return r < 0 ? r : take_phdrs(e, ph, h.e_phnum);
}

static const Elf64_Phdr *find_phdr(const struct elf *e, uint32_t type)
{
    unsigned i;
    for (i = 0; i < e->ph_count; i++)
        if (e->ph[i].p_type == type)
            return &e->ph[i];
    return NULL;
}

/* --- load bias ------------------------------------------------------------ */

/* The bias that mapping m implies, from the segment its file offset lies in. */
static bool bias_of(const struct elf *e, const struct maps_entry *m, bool must_exec, raddr_t *ret)
{
    unsigned i;
    for (i = 0; i < e->ph_count; i++) {
        const Elf64_Phdr *p = &e->ph[i];
        uint64_t first = p->p_offset & ~(uint64_t)(PAGE - 1);
        raddr_t bias;
        if (!load_fits(p) || (must_exec && !(p->p_flags & PF_X)))
            continue;
        if (m->offset < first || m->offset >= p->p_offset + p->p_filesz)
            continue;
        bias = m->lo - (p->p_vaddr + (m->offset - p->p_offset));
        if (bias % PAGE)
            continue;
        *ret = bias;
        return true;
    }
    return false;
}

/* An executable mapping of the file decides; when text was moved to anonymous
 * huge pages there is none, and the part we were given has to do. */
static int find_bias(struct elf *e, const struct maps_entry *part)
{
    const struct maps *m = e->maps;
    const struct maps_entry *at, *end = m->entry + m->count;
    if (part->exec && bias_of(e, part, true, &e->bias))
        return 0;
    for (at = m->entry; at < end; at++)
        if (at->exec && maps_same_file(at, part) && bias_of(e, at, true, &e->bias))
            return 0;
    return bias_of(e, part, false, &e->bias) ? 0 : -ENOEXEC;
}

/* --- opening -------------------------------------------------------------- */

/* Files that are no files: reading one may wait, take something away, or do something. */
static bool is_pseudo(int fd)
{
    static const unsigned long kinds[] = {
        0x9fa0 /* proc */, 0x62656572 /* sysfs */, 0x64626720 /* debugfs */, 0x74726163 /* tracefs */,
        0x63677270 /* cgroup2 */, 0x27e0eb /* cgroup */, 0x73636673 /* securityfs */, 0xde5e81e4 /* efivarfs */,
    };
    struct statfs fs;
    size_t i;
    if (fstatfs(fd, &fs) < 0)
        return true;
    for (i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
        if ((unsigned long)fs.f_type == kinds[i])
            return true;
    return false;
}

/* Opens what O_PATH has found, and lets go of that: a device must not be opened just to
 * find out that it is one. O_NONBLOCK: whoever has a lease on the file (fcntl(2),
 * F_SETLEASE) would make us wait. */
static int open_found(int at, struct stat *ret)
{
    char self[64];
    struct stat st;
    int fd = -ENOENT;
    if (at < 0)
        return -errno;
    if (fstat(at, &st) == 0 && S_ISREG(st.st_mode) && !is_pseudo(at)) {
        snprintf(self, sizeof(self), "/proc/self/fd/%d", at);
        fd = open(self, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
        if (fd < 0)
            fd = -errno;
        *ret = st;
    }
    close(at);
    return fd;
}

/* The mapped file itself, whatever became of its name. Needs CAP_SYS_ADMIN or
 * CAP_CHECKPOINT_RESTORE (proc(5)). */
static int open_map_files(pid_t pid, const struct maps_entry *m)
{
    char path[96];
    struct stat st;
    snprintf(path, sizeof(path), "/proc/%d/map_files/%lx-%lx", (int)pid, (unsigned long)m->lo, (unsigned long)m->hi);
    return open_found(open(path, O_PATH | O_CLOEXEC), &st);
}

/* The name is what the kernel resolved when the file was opened: a link in it was put
 * there since, and one that begins with a slash would lead out of the target's root into
 * ours. Before 5.6 links are followed; what is found must then still be the mapped file. */
static int find_in_root(pid_t pid, const char *name)
{
    struct open_how how = {.flags = O_PATH | O_CLOEXEC, .resolve = RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS};
    char path[32];
    int root, at, err;
    snprintf(path, sizeof(path), "/proc/%d/root", (int)pid);
    root = open(path, O_PATH | O_CLOEXEC | O_DIRECTORY);
    if (root < 0)
        return -1;
    at = (int)syscall(SYS_openat2, root, name + strspn(name, "/"), &how, sizeof(how));
    if (at < 0 && (errno == ENOSYS || errno == EPERM))
        at = openat(root, name + strspn(name, "/"), O_PATH | O_CLOEXEC);
    err = errno;
    close(root);
    errno = err;
    return at;
}

/* The path inside the target's root. *ret_same: device and inode agree. */
static int open_by_name(pid_t pid, const struct maps_entry *m, bool *ret_same)
{
    struct stat st;
    int fd;
    if (m->name[0] != '/' || m->deleted)
        return -ENOENT;
    fd = open_found(find_in_root(pid, m->name), &st);
    if (fd >= 0)
        *ret_same = st.st_ino == m->inode && major(st.st_dev) == m->dev_major && minor(st.st_dev) == m->dev_minor;
    return fd;
}

/* Overlay and btrfs report other device numbers in maps than in stat(2). The
 * file is ours all the same when its headers and notes (the build id) are what
 * the target has in memory. */
static bool matches_memory(const struct elf *e)
{
    unsigned char in_file[PAGE], in_mem[PAGE];
    unsigned i, notes = 0;
    for (i = 0; i < e->ph_count; i++) {
        const Elf64_Phdr *p = &e->ph[i];
        size_t n = p->p_filesz;
        bool head = p->p_type == PT_LOAD && p->p_offset == 0;
        if (!head && p->p_type != PT_NOTE)
            continue;
        if (head)
            n = sizeof(Elf64_Ehdr) + e->ph_count * sizeof(Elf64_Phdr);
        if (!n || n > PAGE)
            continue;
        if (pread(e->fd, in_file, n, (off_t)p->p_offset) != (ssize_t)n ||
            mem_read(e->pid, e->bias + p->p_vaddr, in_mem, n) < 0 || memcmp(in_file, in_mem, n))
            return false;
        notes += p->p_type == PT_NOTE;
    }
    return notes > 0;
}

static void drop_file(struct elf *e)
{
    elf_end(e->lib);
    e->lib = NULL;
    if (e->fd >= 0)
        close(e->fd);
    e->fd = -1;
    free(e->ph);
    e->ph = NULL;
    e->ph_count = 0;
}

/* Takes over fd. `same`: the file is known to be the mapped one. */
static int try_file(struct elf *e, int fd, const struct maps_entry *part, enum elf_source source, bool same)
{
    Elf64_Ehdr h;
    int r;
    if (fd < 0)
        return fd;
    e->fd = fd;
    /* Not mmapped: a file that shrinks meanwhile must not kill us with SIGBUS. */
    if (pread(fd, &h, sizeof(h), 0) == (ssize_t)sizeof(h) && counts_fit(&h))
        e->lib = elf_begin(fd, ELF_C_READ, NULL);
    r = load_headers_lib(e);
    if (r == 0)
        r = find_bias(e, part);
    if (r == 0 && !same && !matches_memory(e))
        r = -ESTALE;
    if (r < 0)
        drop_file(e);
    else
        e->source = source;
    return r;
}

static int try_memory(struct elf *e, const struct maps_entry *part)
{
    const struct maps_entry *m = part;
    int r;
    while (m > e->maps->entry && !(m->offset == 0 && maps_same_file(m, part)))
        m--;
    if (m->offset != 0 || !maps_same_file(m, part))
        return -ENOEXEC;
    r = load_headers_memory(e, m->lo);
    if (r == 0)
        r = find_bias(e, part);
    e->source = ELF_FROM_MEMORY;
    return r;
}

static struct elf *elf_new(pid_t pid)
{
    struct elf *e = calloc(1, sizeof(*e));
    if (!e)
        return NULL;
    e->pid = pid;
    e->fd = -1;
    elf_version(EV_CURRENT);
    return e;
}

int elf_open_mapped(struct elf **ret, pid_t pid, const struct maps *maps, const struct maps_entry *part)
{
    struct elf *e = elf_new(pid);
    bool same = false;
    int r;
    if (!e)
        return -ENOMEM;
    e->maps = maps;
    r = try_file(e, open_map_files(pid, part), part, ELF_FROM_MAP_FILES, true);
    if (r < 0 && r != -ENOMEM) {
        int fd = open_by_name(pid, part, &same);
        r = try_file(e, fd, part, ELF_FROM_ROOT, same);
    }
    if (r < 0 && r != -ENOMEM)
        r = try_memory(e, part);
    if (r < 0) {
        elf_free(e);
        return r;
    }
    *ret = e;
    return 0;
}

int elf_charge(struct elf *e, uint64_t *budget)
{
    size_t sections = 0;
    if (e->lib && elf_getshdrnum(e->lib, &sections) < 0)
        return -ENOEXEC;
    e->budget = budget;
    return spend(e, sizeof(*e) + e->ph_count * sizeof(*e->ph) + sections * SECTION_COST) ? 0 : -E2BIG;
}

int elf_open_image(struct elf **ret, const void *image, size_t len)
{
    struct elf *e = elf_new(0);
    Elf64_Ehdr h = {0};
    int r;
    if (!e)
        return -ENOMEM;
    e->source = ELF_FROM_IMAGE;
    e->image = image;
    e->image_len = len;
    if (len >= sizeof(h))
        memcpy(&h, image, sizeof(h));
    if (counts_fit(&h))
        e->lib = elf_memory((char *)(uintptr_t)image, len); /* is only read: no ELF_C_WRITE follows */
    r = load_headers_lib(e);
    if (r < 0) {
        elf_free(e);
        return r;
    }
    *ret = e;
    return 0;
}

static void table_release(struct table *t)
{
    size_t i;
    for (i = 0; i < sizeof(t->owned) / sizeof(t->owned[0]); i++)
        free(t->owned[i]);
    *t = (struct table){0};
}

void elf_free(struct elf *e)
{
    if (!e)
        return;
    table_release(&e->dynamic);
    table_release(&e->full);
    drop_file(e);
    free(e);
}

enum elf_source elf_source(const struct elf *e) { return e->source; }
raddr_t elf_bias(const struct elf *e) { return e->bias; }
bool elf_has_interp(const struct elf *e) { return find_phdr(e, PT_INTERP) != NULL; }

/* --- segments ------------------------------------------------------------- */

int elf_segment(const struct elf *e, unsigned i, struct elf_segment *ret)
{
    unsigned n;
    for (n = 0; n < e->ph_count; n++) {
        const Elf64_Phdr *p = &e->ph[n];
        if (!load_fits(p) || i--)
            continue;
        ret->lo = e->bias + p->p_vaddr;
        ret->hi = ret->lo + p->p_memsz;
        ret->flags = p->p_flags;
        return ret->hi >= ret->lo ? 0 : -ENOENT;
    }
    return -ENOENT;
}

/* Whether [at, at+len) lies in one PT_LOAD. */
static const Elf64_Phdr *load_of(const struct elf *e, raddr_t at, uint64_t len)
{
    uint64_t vaddr = at - e->bias;
    unsigned i;
    for (i = 0; i < e->ph_count; i++) {
        const Elf64_Phdr *p = &e->ph[i];
        if (load_fits(p) && vaddr >= p->p_vaddr && vaddr - p->p_vaddr < p->p_memsz &&
            len <= p->p_memsz - (vaddr - p->p_vaddr))
            return p;
    }
    return NULL;
}

int elf_tls(const struct elf *e, struct elf_tls *ret)
{
    const Elf64_Phdr *p = find_phdr(e, PT_TLS);
    if (!p)
        return -ENOENT;
    if (p->p_filesz > p->p_memsz || !p->p_memsz || (p->p_filesz && !load_of(e, e->bias + p->p_vaddr, p->p_filesz)))
        return -EBADMSG;
    *ret = (struct elf_tls){e->bias + p->p_vaddr, p->p_filesz, p->p_memsz, p->p_align};
    return 0;
}

raddr_t elf_dynamic(const struct elf *e, uint64_t *ret_size)
{
    const Elf64_Phdr *p = find_phdr(e, PT_DYNAMIC);
    if (!p)
        return 0;
    if (ret_size)
        *ret_size = p->p_memsz;
    return e->bias + p->p_vaddr;
}

int elf_read(const struct elf *e, raddr_t at, void *ret_buf, size_t len)
{
    const Elf64_Phdr *p;
    uint64_t in;
    if (e->pid)
        return mem_read(e->pid, at, ret_buf, len);
    p = load_of(e, at, len);
    in = p ? at - e->bias - p->p_vaddr : 0;
    if (!p || in > p->p_filesz || len > p->p_filesz - in || p->p_offset > e->image_len ||
        p->p_filesz > e->image_len - p->p_offset)
        return -EFAULT;
    memcpy(ret_buf, e->image + p->p_offset + in, len);
    return 0;
}

/* --- symbol tables from the file ------------------------------------------ */

static Elf_Scn *section_of_type(const struct elf *e, uint32_t type)
{
    Elf_Scn *s = NULL;
    while ((s = elf_nextscn(e->lib, s))) {
        GElf_Shdr h;
        if (gelf_getshdr(s, &h) && h.sh_type == type)
            return s;
    }
    return NULL;
}

static const Elf_Data *section_data(const struct elf *e, Elf_Scn *s)
{
    const Elf_Data *d;
    GElf_Shdr h;
    if (!s || !gelf_getshdr(s, &h) || h.sh_size > SECTION_MAX || !spend(e, h.sh_size))
        return NULL;
    d = elf_getdata(s, NULL);
    return d && d->d_buf ? d : NULL;
}

static int table_from_file(const struct elf *e, struct table *t, uint32_t type)
{
    Elf_Scn *s = section_of_type(e, type), *v;
    const Elf_Data *sym = section_data(e, s), *str, *ver;
    GElf_Shdr h;
    if (!sym || !gelf_getshdr(s, &h))
        return -ENOENT;
    str = section_data(e, elf_getscn(e->lib, h.sh_link));
    if (!str)
        return -ENOENT;
    t->sym = sym->d_buf;
    t->count = sym->d_size / sizeof(Elf64_Sym);
    t->str = str->d_buf;
    t->strsz = str->d_size;
    v = type == SHT_DYNSYM ? section_of_type(e, SHT_GNU_versym) : NULL;
    ver = section_data(e, v);
    if (ver && ver->d_size / sizeof(uint16_t) >= t->count)
        t->versym = ver->d_buf;
    return 0;
}

/* --- the exported table from memory --------------------------------------- */

struct dyn_facts {
    raddr_t symtab, strtab, hash, gnu_hash, versym;
    uint64_t strsz, soname;
    bool has_soname;
};

/* glibc relocates most d_ptr values of a loaded object in place; those of objects
 * with a read-only dynamic section stay as linked. */
static raddr_t dyn_addr(const struct elf *e, uint64_t v)
{
    return load_of(e, v, 1) ? v : e->bias + v;
}

static int read_dynamic(const struct elf *e, struct dyn_facts *ret)
{
    struct dyn_facts f = {0};
    uint64_t size = 0;
    raddr_t at = elf_dynamic(e, &size);
    Elf64_Dyn *d;
    size_t i, n = size / sizeof(*d);
    int r;
    if (!at || !n)
        return -ENOENT;
    if (n > DYNAMIC_MAX)
        n = DYNAMIC_MAX;
    d = calloc(n, sizeof(*d));
    if (!d)
        return -ENOMEM;
    r = elf_read(e, at, d, n * sizeof(*d));
    for (i = 0; r == 0 && i < n && d[i].d_tag != DT_NULL; i++) {
        uint64_t v = d[i].d_un.d_val;
        switch (d[i].d_tag) {
        case DT_SYMTAB: f.symtab = dyn_addr(e, v); break;
        case DT_STRTAB: f.strtab = dyn_addr(e, v); break;
        case DT_STRSZ: f.strsz = v; break;
        case DT_HASH: f.hash = dyn_addr(e, v); break;
        case DT_GNU_HASH: f.gnu_hash = dyn_addr(e, v); break;
        case DT_VERSYM: f.versym = dyn_addr(e, v); break;
        case DT_SONAME: f.soname = v; f.has_soname = true; break;
        default: break;
        }
    }
    free(d);
    if (r == 0)
        *ret = f;
    return r;
}

/* The GNU hash table does not say how many symbols there are: the last chain of
 * the highest bucket ends with the last one (an entry whose bit 0 is set). */
static int gnu_hash_count(const struct elf *e, raddr_t at, size_t *ret)
{
    uint32_t head[4], bucket[1024], highest = 0, i;
    raddr_t buckets, chain;
    int r = elf_read(e, at, head, sizeof(head)); /* nbuckets, symoffset, bloom_size, bloom_shift */
    if (r < 0)
        return r;
    if (head[0] > MEMORY_SYMS_MAX || head[2] > MEMORY_SYMS_MAX || head[1] > MEMORY_SYMS_MAX)
        return -ENOEXEC;
    buckets = at + sizeof(head) + 8ull * head[2];
    chain = buckets + 4ull * head[0];
    for (i = 0; i < head[0]; i++) {
        uint32_t in = i % 1024, step = head[0] - i < 1024 ? head[0] - i : 1024;
        if (in == 0 && (r = elf_read(e, buckets + 4ull * i, bucket, 4ull * step)) < 0)
            return r;
        if (bucket[in] > highest)
            highest = bucket[in];
    }
    if (highest < head[1]) {
        *ret = head[1];
        return 0;
    }
    for (; highest < MEMORY_SYMS_MAX; highest++) {
        uint32_t value;
        r = elf_read(e, chain + 4ull * (highest - head[1]), &value, 4);
        if (r < 0)
            return r;
        if (value & 1) {
            *ret = highest + 1;
            return 0;
        }
    }
    return -ENOEXEC;
}

static int memory_sym_count(const struct elf *e, const struct dyn_facts *f, size_t *ret)
{
    uint32_t head[2]; /* nbucket, nchain: the latter is the number of symbols */
    int r;
    if (f->gnu_hash)
        return gnu_hash_count(e, f->gnu_hash, ret);
    if (!f->hash)
        return -ENOENT;
    r = elf_read(e, f->hash, head, sizeof(head));
    if (r < 0)
        return r;
    if (head[1] > MEMORY_SYMS_MAX)
        return -ENOEXEC;
    *ret = head[1];
    return 0;
}

static int fetch(const struct elf *e, raddr_t at, size_t len, void **ret)
{
    void *buf;
    int r;
    if (!spend(e, len))
        return -E2BIG;
    buf = malloc(len ? len : 1);
    if (!buf)
        return -ENOMEM;
    r = elf_read(e, at, buf, len);
    if (r < 0)
        free(buf);
    else
        *ret = buf;
    return r;
}

static int table_from_memory(const struct elf *e, struct table *t)
{
    struct dyn_facts f;
    size_t count = 0;
    int r = read_dynamic(e, &f);
    if (r < 0)
        return r;
    if (!f.symtab || !f.strtab || !f.strsz || f.strsz > MEMORY_STR_MAX)
        return -ENOENT;
    r = memory_sym_count(e, &f, &count);
    if (r < 0)
        return r;
    r = fetch(e, f.symtab, count * sizeof(Elf64_Sym), &t->owned[0]);
    if (r == 0)
        r = fetch(e, f.strtab, f.strsz, &t->owned[1]);
    if (r == 0 && f.versym)
        r = fetch(e, f.versym, count * sizeof(uint16_t), &t->owned[2]);
    if (r < 0) {
        table_release(t);
        return r;
    }
    t->sym = t->owned[0];
    t->str = t->owned[1];
    t->versym = t->owned[2];
    t->count = count;
    t->strsz = f.strsz;
    return 0;
}

/* --- lookup --------------------------------------------------------------- */

static void load_dynamic_table(struct elf *e)
{
    if (e->dynamic.loaded)
        return;
    if (!e->lib || table_from_file(e, &e->dynamic, SHT_DYNSYM) < 0) {
        if (table_from_memory(e, &e->dynamic) < 0)
            e->dynamic = (struct table){0};
    }
    e->dynamic.loaded = true;
}

static void load_full_table(struct elf *e)
{
    if (e->full.loaded)
        return;
    if (e->lib && table_from_file(e, &e->full, SHT_SYMTAB) < 0)
        e->full = (struct table){0};
    e->full.loaded = true;
}

static Elf64_Sym sym_at(const struct table *t, size_t i)
{
    Elf64_Sym s;
    memcpy(&s, t->sym + i * sizeof(s), sizeof(s));
    return s;
}

static bool name_is(const struct table *t, const Elf64_Sym *s, const char *name, size_t len)
{
    return s->st_name < t->strsz && t->strsz - s->st_name > len && !memcmp(t->str + s->st_name, name, len + 1);
}

/* How good a match is: the default version of a global one first. */
static int rank(const struct table *t, size_t i, const Elf64_Sym *s)
{
    uint16_t version = 0;
    if (ELF64_ST_BIND(s->st_info) == STB_LOCAL)
        return 1;
    if (t->versym)
        memcpy(&version, t->versym + i * sizeof(version), sizeof(version));
    return version & 0x8000 ? 2 : 3;
}

static bool table_find(const struct table *t, const char *name, Elf64_Sym *ret)
{
    size_t i, len = strlen(name);
    int best = 0;
    bool ambiguous = false; /* two local ones: which is meant cannot be known */
    for (i = 1; i < t->count && best < 3; i++) {
        Elf64_Sym s = sym_at(t, i);
        int r;
        if (s.st_shndx == SHN_UNDEF || !name_is(t, &s, name, len))
            continue;
        r = rank(t, i, &s);
        ambiguous |= r == 1 && best == 1 && ret->st_value != s.st_value;
        if (r > best) {
            *ret = s;
            best = r;
        }
    }
    return best > 1 || (best == 1 && !ambiguous);
}

static int give(const struct elf *e, const Elf64_Sym *s, bool exported, struct elf_sym *ret)
{
    uint8_t type = ELF64_ST_TYPE(s->st_info);
    if (s->st_shndx == SHN_ABS)
        return -ENOENT; /* version names and the like: no address */
    *ret = (struct elf_sym){
        .addr = type == STT_TLS ? s->st_value : e->bias + s->st_value,
        .size = s->st_size,
        .type = type,
        .exported = exported,
    };
    return 0;
}

int elf_find_exported(struct elf *e, const char *name, struct elf_sym *ret)
{
    Elf64_Sym s;
    load_dynamic_table(e);
    return table_find(&e->dynamic, name, &s) ? give(e, &s, true, ret) : -ENOENT;
}

int elf_find(struct elf *e, const char *name, struct elf_sym *ret)
{
    Elf64_Sym s;
    if (elf_find_exported(e, name, ret) == 0)
        return 0;
    load_full_table(e);
    return table_find(&e->full, name, &s) ? give(e, &s, false, ret) : -ENOENT;
}

raddr_t elf_addr(struct elf *e, const char *name)
{
    struct elf_sym s;
    if (elf_find(e, name, &s) < 0 || s.type == STT_TLS || s.type == STT_GNU_IFUNC || !load_of(e, s.addr, 1))
        return 0;
    return s.addr;
}

bool elf_imports(struct elf *e, const char *name)
{
    const struct table *t = &e->dynamic;
    size_t i, len = strlen(name);
    load_dynamic_table(e);
    for (i = 1; i < t->count; i++) {
        Elf64_Sym s = sym_at(t, i);
        if (s.st_shndx == SHN_UNDEF && name_is(t, &s, name, len))
            return true;
    }
    return false;
}

ssize_t elf_soname(struct elf *e, char *ret_buf, size_t size)
{
    struct dyn_facts f;
    const struct table *t = &e->dynamic;
    size_t n;
    int r = read_dynamic(e, &f);
    if (r < 0)
        return r;
    load_dynamic_table(e);
    if (!f.has_soname || f.soname >= t->strsz || !size)
        return -ENOENT;
    n = strnlen(t->str + f.soname, t->strsz - f.soname);
    if (n >= size)
        n = size - 1;
    memcpy(ret_buf, t->str + f.soname, n);
    ret_buf[n] = '\0';
    return (ssize_t)n;
}

int elf_exe_machine(pid_t pid, unsigned *ret_class, unsigned *ret_machine)
{
    char path[64];
    unsigned char h[sizeof(Elf32_Ehdr)];
    Elf32_Half machine;
    ssize_t n;
    int fd;
    snprintf(path, sizeof(path), "/proc/%d/exe", (int)pid);
    fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return -errno;
    n = pread(fd, h, sizeof(h), 0);
    close(fd);
    if (n != (ssize_t)sizeof(h) || memcmp(h, ELFMAG, SELFMAG))
        return -ENOEXEC;
    memcpy(&machine, h + offsetof(Elf32_Ehdr, e_machine), sizeof(machine)); /* same place in both classes */
    if (h[EI_DATA] == ELFDATA2MSB)
        machine = (Elf32_Half)(machine << 8 | machine >> 8);
    *ret_class = h[EI_CLASS];
    *ret_machine = machine;
    return 0;
}
