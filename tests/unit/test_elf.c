/* ELF files as they are mapped: this process's own modules, against what the
 * dynamic linker says; the same from memory alone; and damaged files. */
#include <check.h>
#include <dlfcn.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <gelf.h>
#include <link.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include "skip.h"
#include "target/elf.h"
#include "target/maps.h"

int test_elf_exported_variable = 5; /* something of our own to look for */
static struct maps maps;

static void setup(void) { ck_assert_int_eq(maps_read(&maps, getpid()), 0); }
static void teardown(void) { maps_release(&maps); }

static struct elf *open_at(pid_t pid, const struct maps *m, raddr_t at)
{
    struct elf *e = NULL;
    const struct maps_entry *part = maps_at(m, at);
    ck_assert_ptr_nonnull(part);
    ck_assert_int_eq(elf_open_mapped(&e, pid, m, part), 0);
    return e;
}

START_TEST(test_self)
{
    struct elf *e = open_at(getpid(), &maps, (raddr_t)(uintptr_t)&test_elf_exported_variable);
    struct elf_segment s;
    int v = 0;
    unsigned i, code = 0;
    raddr_t at = elf_addr(e, "test_elf_exported_variable");
    ck_assert_uint_eq(at, (raddr_t)(uintptr_t)&test_elf_exported_variable);
    ck_assert_int_eq(elf_read(e, at, &v, sizeof(v)), 0);
    ck_assert_int_eq(v, 5);
    ck_assert(elf_has_interp(e));
    for (i = 0; elf_segment(e, i, &s) == 0; i++)
        code += (s.flags & PF_X) && s.lo <= (raddr_t)(uintptr_t)&setup && (raddr_t)(uintptr_t)&setup < s.hi;
    ck_assert_uint_eq(code, 1);
    ck_assert_uint_eq(elf_addr(e, "no_such_symbol_anywhere"), 0);
    elf_free(e);
}
END_TEST

/* What dlsym says, elf_addr must say. */
static void against_dlsym(struct elf *e, void *handle)
{
    static const char *const names[] = {"dlopen", "pthread_create", "malloc", "clock_gettime", "gnu_get_libc_version",
                                        "__errno_location", "environ", "pthread_attr_setstack"};
    size_t i;
    for (i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        raddr_t want = (raddr_t)(uintptr_t)dlsym(handle, names[i]);
        ck_assert_msg(elf_addr(e, names[i]) == want, "%s", names[i]);
    }
}

START_TEST(test_libc)
{
    void *handle = dlopen("libc.so.6", RTLD_NOW | RTLD_NOLOAD);
    struct link_map *lm;
    struct elf *e;
    struct elf_sym s;
    struct elf_tls t;
    char soname[64];
    ck_assert_ptr_nonnull(handle);
    ck_assert_int_eq(dlinfo(handle, RTLD_DI_LINKMAP, &lm), 0);
    e = open_at(getpid(), &maps, (raddr_t)(uintptr_t)lm->l_ld);
    ck_assert_uint_eq(elf_bias(e), lm->l_addr);
    ck_assert_uint_eq(elf_dynamic(e, NULL), (raddr_t)(uintptr_t)lm->l_ld);
    against_dlsym(e, handle);
    ck_assert_int_eq(elf_soname(e, soname, sizeof(soname)), 9);
    ck_assert_str_eq(soname, "libc.so.6");
    ck_assert_int_eq(elf_soname(e, soname, 5), 4);
    ck_assert_str_eq(soname, "libc");
    ck_assert_int_eq(elf_find(e, "errno", &s), 0);
    ck_assert(s.type == STT_TLS && s.exported);
    ck_assert_uint_eq(elf_addr(e, "errno"), 0); /* has no address */
    ck_assert_uint_eq(elf_addr(e, "GLIBC_2.2.5"), 0);
    ck_assert_int_eq(elf_tls(e, &t), 0);
    ck_assert(t.filesz <= t.memsz && s.addr + s.size <= t.memsz);
    ck_assert(!elf_imports(e, "dlopen"));
    ck_assert(elf_imports(e, "__tls_get_addr") || elf_imports(e, "_rtld_global"));
    elf_free(e);
}
END_TEST

/* A library whose file is gone, in a process without privileges: neither
 * map_files nor the name will do, only memory. */
static pid_t child_with_deleted_library(char *path, int *ret_pipe, raddr_t *ret_at)
{
    int to[2], from[2];
    pid_t child;
    raddr_t at = 0;
    ck_assert_int_eq(pipe(to), 0);
    ck_assert_int_eq(pipe(from), 0);
    child = fork();
    if (child == 0) {
        void *handle = dlopen(path, RTLD_NOW);
        close(to[1]);
        at = handle ? (raddr_t)(uintptr_t)dlsym(handle, "zlibVersion") : 0;
        unlink(path);
        if (getuid() == 0 && (setresgid(65534, 65534, 65534) || setresuid(65534, 65534, 65534)))
            _exit(1);
        prctl(PR_SET_DUMPABLE, 1);
        if (write(from[1], &at, sizeof(at)) != sizeof(at) || read(to[0], &at, 1) < 0)
            _exit(1);
        _exit(0);
    }
    close(to[0]); /* its end of input is our leaving */
    ck_assert_int_eq(read(from[0], ret_at, sizeof(*ret_at)), sizeof(*ret_at));
    *ret_pipe = to[1];
    return child;
}

static bool copy_file(const char *from, const char *to)
{
    char buf[65536];
    int in = open(from, O_RDONLY), out = mkstemp((char *)(uintptr_t)to);
    ssize_t n = -1;
    while (in >= 0 && out >= 0 && (n = read(in, buf, sizeof(buf))) > 0)
        if (write(out, buf, (size_t)n) != n)
            break;
    if (out >= 0 && fchmod(out, 0755) == 0)
        close(out);
    if (in >= 0)
        close(in);
    return n == 0;
}

/* Every function the file exports is found in memory, at the same distance. */
static void same_functions(struct elf *from_memory, const char *path, raddr_t at_zlib_version)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    Elf *file = elf_begin(fd, ELF_C_READ, NULL);
    Elf_Scn *s = NULL;
    GElf_Shdr h;
    Elf_Data *d;
    GElf_Sym sym;
    raddr_t bias = 0;
    int pass, i, n = 0;
    while ((s = elf_nextscn(file, s)) && gelf_getshdr(s, &h) && h.sh_type != SHT_DYNSYM)
        ;
    ck_assert_ptr_nonnull(s);
    d = elf_getdata(s, NULL);
    for (pass = 0; pass < 2; pass++) {
        for (i = 1; gelf_getsym(d, i, &sym); i++) {
            const char *name = elf_strptr(file, h.sh_link, sym.st_name);
            if (sym.st_shndx == SHN_UNDEF || GELF_ST_TYPE(sym.st_info) != STT_FUNC)
                continue;
            if (pass == 0 && !strcmp(name, "zlibVersion"))
                bias = at_zlib_version - sym.st_value;
            if (pass == 1) {
                ck_assert_msg(elf_addr(from_memory, name) == bias + sym.st_value, "%s", name);
                n++;
            }
        }
    }
    ck_assert_int_gt(n, 50);
    elf_end(file);
    close(fd);
}

static const char zlib[] = "/lib/x86_64-linux-gnu/libz.so.1";

START_TEST(test_memory_only)
{
    char path[] = "/tmp/test_elf_libz_XXXXXX";
    struct maps m;
    struct elf *e;
    int fd;
    raddr_t at;
    pid_t child;
    if (!copy_file(zlib, path)) {
        unlink(path);
        skip("test_memory_only", "no zlib here to try it on");
        return;
    }
    child = child_with_deleted_library(path, &fd, &at);
    ck_assert_uint_ne(at, 0);
    if (getuid() == 0)
        ck_assert(setresgid(65534, 65534, 65534) == 0 && setresuid(65534, 65534, 65534) == 0);
    ck_assert_int_eq(maps_read(&m, child), 0);
    e = open_at(child, &m, at);
    ck_assert_int_eq(elf_source(e), ELF_FROM_MEMORY);
    ck_assert_uint_eq(elf_addr(e, "zlibVersion"), at);
    same_functions(e, zlib, at);
    ck_assert_uint_eq(elf_addr(e, "no_such_symbol"), 0);
    ck_assert(elf_imports(e, "malloc"));
    elf_free(e);
    maps_release(&m);
    close(fd);
    ck_assert_int_eq(waitpid(child, NULL, 0), child);
}
END_TEST

/* --- bytes ----------------------------------------------------------------------- */

static unsigned char *read_file(const char *path, size_t *ret_len)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat st;
    unsigned char *buf;
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(fstat(fd, &st), 0);
    buf = malloc((size_t)st.st_size);
    ck_assert_int_eq(read(fd, buf, (size_t)st.st_size), st.st_size);
    close(fd);
    *ret_len = (size_t)st.st_size;
    return buf;
}

/* Everything the reader can be asked, on whatever this is. */
static void ask_all(const void *image, size_t len)
{
    struct elf *e;
    struct elf_sym s;
    struct elf_segment seg;
    struct elf_tls t;
    char name[64];
    unsigned i;
    uint64_t word;
    if (elf_open_image(&e, image, len) < 0)
        return;
    for (i = 0; elf_segment(e, i, &seg) == 0; i++)
        (void)!elf_read(e, seg.lo, &word, sizeof(word));
    (void)!elf_find(e, "zlibVersion", &s);
    (void)!elf_find(e, "no_such_symbol", &s);
    (void)elf_addr(e, "deflate");
    (void)elf_imports(e, "malloc");
    (void)!elf_tls(e, &t);
    (void)elf_dynamic(e, NULL);
    (void)!elf_soname(e, name, sizeof(name));
    elf_free(e);
}

static const char *const samples[] = {"/lib/x86_64-linux-gnu/libz.so.1", "/bin/true"};

START_TEST(test_damaged)
{
    size_t len, i, k;
    unsigned char *good, *bad;
    unsigned seed = 12345;
    if (access(samples[_i], R_OK) < 0)
        return;
    good = read_file(samples[_i], &len);
    bad = malloc(len);
    for (i = 0; i < 1500; i++) {
        memcpy(bad, good, len);
        for (k = 0; k < 1 + i % 8; k++) {
            /* Half of the damage goes where it tells: headers, dynamic section, tables. */
            size_t area = i % 2 ? len : (len < 4096 ? len : 4096), at;
            seed = seed * 1103515245u + 12345u;
            at = (seed >> 8) % area;
            if (i % 4 == 2 && len > 4096)
                at = len - 1 - at; /* section headers are at the end */
            bad[at] = (unsigned char)(seed >> 3);
        }
        ask_all(bad, len);
    }
    free(good);
    free(bad);
}
END_TEST

START_TEST(test_cut)
{
    size_t len, n;
    unsigned char *good = read_file("/bin/true", &len);
    for (n = 0; n < len; n += n < 1024 ? 7 : 997) {
        unsigned char *exact = malloc(n ? n : 1);
        memcpy(exact, good, n);
        ask_all(exact, n);
        free(exact);
    }
    free(good);
}
END_TEST

START_TEST(test_not_elf)
{
    struct elf *e;
    unsigned char h[4096] = "\x7f" "ELF";
    ck_assert_int_eq(elf_open_image(&e, "#!/bin/sh\n", 10), -ENOEXEC);
    ck_assert_int_eq(elf_open_image(&e, "", 0), -ENOEXEC);
    ck_assert_int_eq(elf_open_image(&e, h, sizeof(h)), -ENOEXEC);
    h[EI_CLASS] = ELFCLASS32;
    h[EI_DATA] = ELFDATA2LSB;
    h[EI_VERSION] = EV_CURRENT;
    ck_assert_int_eq(elf_open_image(&e, h, sizeof(h)), -ENOEXEC);
    h[EI_CLASS] = ELFCLASS64;
    ck_assert_int_eq(elf_open_image(&e, h, sizeof(h)), -ENOEXEC); /* no program headers */
}
END_TEST

START_TEST(test_not_mapped_as_elf)
{
    struct maps m;
    struct elf *e;
    int fd = memfd_create("noise", MFD_CLOEXEC);
    void *at;
    ck_assert_int_eq(ftruncate(fd, 8192), 0);
    at = mmap(NULL, 8192, PROT_READ | PROT_EXEC, MAP_PRIVATE, fd, 0);
    ck_assert_int_eq(maps_read(&m, getpid()), 0);
    ck_assert_int_eq(elf_open_mapped(&e, getpid(), &m, maps_at(&m, (raddr_t)(uintptr_t)at)), -ENOEXEC);
    maps_release(&m);
    munmap(at, 8192);
    close(fd);
}
END_TEST

/* This program as a file that is larger than it has to be, spoilt and mapped. NULL when it
 * is then refused. */
static struct elf *open_huge(void (*spoil)(Elf64_Ehdr *h, int fd), struct maps *m)
{
    size_t len;
    unsigned char *image = read_file("/proc/self/exe", &len), *at;
    int fd = memfd_create("huge", MFD_CLOEXEC);
    Elf64_Ehdr h;
    struct elf *e = NULL;

    memcpy(&h, image, sizeof(h));
    ck_assert_int_eq(write(fd, image, len), (ssize_t)len);
    ck_assert_int_eq(ftruncate(fd, 700l << 20), 0);
    spoil(&h, fd);
    ck_assert_int_eq(pwrite(fd, &h, sizeof(h), 0), (ssize_t)sizeof(h));
    at = mmap(NULL, len, PROT_READ | PROT_EXEC, MAP_PRIVATE, fd, 0);
    ck_assert_ptr_ne(at, MAP_FAILED);
    ck_assert_int_eq(maps_read(m, getpid()), 0);
    (void)!elf_open_mapped(&e, getpid(), m, maps_at(m, (raddr_t)(uintptr_t)at));
    free(image);
    close(fd);
    return e;
}

/* Tables and their strings reach to the end of a sparse file. */
static void spoil_symtab(Elf64_Ehdr *h, int fd)
{
    for (unsigned i = 0; i < h->e_shnum; i++) {
        off_t at = (off_t)(h->e_shoff + i * sizeof(Elf64_Shdr));
        Elf64_Shdr s;

        ck_assert_int_eq(pread(fd, &s, sizeof(s), at), sizeof(s));
        if (s.sh_type != SHT_SYMTAB && s.sh_type != SHT_STRTAB && s.sh_type != SHT_DYNSYM)
            continue;
        s.sh_size = (600u << 20) / sizeof(Elf64_Sym) * sizeof(Elf64_Sym);
        ck_assert_int_eq(pwrite(fd, &s, sizeof(s), at), sizeof(s));
    }
}

/* The header has no place for the number of sections: section 0 says 8 million. */
static void spoil_count(Elf64_Ehdr *h, int fd)
{
    Elf64_Shdr zero = {.sh_size = 8u << 20};

    ck_assert_int_eq(pwrite(fd, &zero, sizeof(zero), (off_t)h->e_shoff), sizeof(zero));
    h->e_shnum = 0;
}

static long peak_mib(void)
{
    struct rusage u;

    getrusage(RUSAGE_SELF, &u);
    return u.ru_maxrss / 1024;
}

/* A target may give its files any size: our memory must not follow. */
START_TEST(test_huge)
{
    static void (*const spoils[])(Elf64_Ehdr *, int) = {spoil_symtab, spoil_count};
    long before = peak_mib();
    struct maps m;
    struct elf *e = open_huge(spoils[_i], &m);
    struct elf_sym s;

    if (e)
        ck_assert_int_ne(elf_find(e, "no_such_symbol_anywhere", &s), 0);
    elf_free(e);
    maps_release(&m);
    ck_assert_int_lt(peak_mib() - before, 200);
}
END_TEST

/* --- names that lead elsewhere ------------------------------------------------------ */

static char folder[64], file[96], other[96];

/* Maps of ours, changed: the mapping that holds `at` is of the file that name says, with
 * its inode, at a place where we have nothing, so that map_files does not help. */
static struct elf *open_named(const char *name, int *ret)
{
    struct stat st;
    char line[256];
    struct maps m;
    struct elf *e = NULL;

    ck_assert_int_eq(stat("/proc/self/exe", &st), 0);
    snprintf(line, sizeof(line), "10000-20000 r-xp 00000000 %02x:%02x %lu %s\n", major(st.st_dev), minor(st.st_dev),
             (unsigned long)st.st_ino, name);
    ck_assert_int_eq(maps_parse(&m, line, strlen(line)), 0);
    ck_assert_uint_eq(m.count, 1);
    *ret = elf_open_mapped(&e, getpid(), &m, m.entry);
    maps_release(&m);
    return e;
}

static void folder_make(void)
{
    strcpy(folder, "/tmp/mp-elf-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(folder));
    snprintf(file, sizeof(file), "%s/file", folder);
    snprintf(other, sizeof(other), "%s/other", folder);
}

static void folder_remove(void)
{
    unlink(file);
    unlink(other);
    ck_assert_int_eq(rmdir(folder), 0);
}

/* The kernel's names have no links in them: one that is there now was put there. By its
 * own name the file is found. */
START_TEST(test_link_in_name)
{
    char real[4096], below[160];
    struct elf *e;
    int r;

    ck_assert_ptr_nonnull(realpath("/proc/self/exe", real));
    e = open_named(real, &r);
    ck_assert_int_eq(r, 0);
    ck_assert_int_eq(elf_source(e), ELF_FROM_ROOT);
    elf_free(e);
    folder_make();
    ck_assert_int_eq(symlink(real, file), 0);
    ck_assert_ptr_null(open_named(file, &r));
    *strrchr(real, '/') = 0;
    ck_assert_int_eq(symlink(real, other), 0);
    snprintf(below, sizeof(below), "%s/test_elf", other);
    ck_assert_ptr_null(open_named(below, &r));
    folder_remove();
}
END_TEST

/* Opening a file that somebody holds a write lease on waits for that one. */
START_TEST(test_leased)
{
    struct elf *e;
    int r, fd;

    folder_make();
    fd = open(file, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    ck_assert_int_ge(fd, 0);
    signal(SIGIO, SIG_IGN);
    if (fcntl(fd, F_SETLEASE, F_WRLCK) == 0) {
        e = open_named(file, &r);
        ck_assert_ptr_null(e);
    } else {
        skip("test_leased", "no lease can be had on this file system");
    }
    close(fd);
    folder_remove();
}
END_TEST

/* Files that do something when they are read. */
START_TEST(test_pseudo)
{
    static const char *const names[] = {"/proc/self/status", "/proc/kmsg", "/sys/kernel/notes", "/dev/null", "/dev"};
    int r;

    ck_assert_ptr_null(open_named(names[_i], &r));
}
END_TEST

/* All that is read of many modules has one bound. */
START_TEST(test_budget)
{
    uint64_t budget = 1 << 20, before;
    struct elf *e = open_at(getpid(), &maps, (raddr_t)(uintptr_t)&test_elf_exported_variable);
    struct elf_sym s;

    ck_assert_int_eq(elf_charge(e, &budget), 0);
    before = budget;
    ck_assert_int_eq(elf_find(e, "test_elf_exported_variable", &s), 0);
    ck_assert_uint_lt(budget, before);
    elf_free(e);
    e = open_at(getpid(), &maps, (raddr_t)(uintptr_t)&test_elf_exported_variable);
    budget = 64 << 10; /* for the headers, not for the tables */
    ck_assert_int_eq(elf_charge(e, &budget), 0);
    budget = 16;
    ck_assert_int_eq(elf_find(e, "test_elf_exported_variable", &s), -ENOENT);
    ck_assert_uint_eq(budget, 16);
    elf_free(e);
    e = open_at(getpid(), &maps, (raddr_t)(uintptr_t)&test_elf_exported_variable);
    ck_assert_int_eq(elf_charge(e, &budget), -E2BIG);
    elf_free(e);
}
END_TEST

START_TEST(test_exe_machine)
{
    unsigned class, machine;
    ck_assert_int_eq(elf_exe_machine(getpid(), &class, &machine), 0);
    ck_assert(class == ELFCLASS64 && machine == EM_X86_64);
    ck_assert_int_lt(elf_exe_machine(0x7ffffffe, &class, &machine), 0);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("elf");
    TCase *t = tcase_create("elf");
    SRunner *r = srunner_create(s);
    int failed;
    tcase_set_timeout(t, 30);
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, test_self);
    tcase_add_test(t, test_libc);
    tcase_add_test(t, test_memory_only);
    tcase_add_loop_test(t, test_damaged, 0, sizeof(samples) / sizeof(samples[0]));
    tcase_add_test(t, test_cut);
    tcase_add_test(t, test_not_elf);
    tcase_add_test(t, test_not_mapped_as_elf);
    tcase_add_test(t, test_exe_machine);
    tcase_add_loop_test(t, test_huge, 0, 2);
    tcase_add_test(t, test_link_in_name);
    tcase_add_test(t, test_leased);
    tcase_add_loop_test(t, test_pseudo, 0, 5);
    tcase_add_test(t, test_budget);
    suite_add_tcase(s, t);
    srunner_run_all(r, CK_NORMAL);
    failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
