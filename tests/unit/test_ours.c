/* The marks by which our own is known in a process: here the test's own. */
#include <check.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "control.h"
#include "inject/inject.h"
#include "inject/ours.h"
#include "thunk_page.h"

static struct ours look(void)
{
    struct maps m;
    struct ours o;

    ck_assert_int_eq(maps_read(&m, getpid()), 0);
    ours_find(&o, getpid(), &m);
    maps_release(&m);
    return o;
}

static bool is_ours(const struct ours *o, const void *at)
{
    struct maps m;
    const struct maps_entry *e;
    bool ours;

    ck_assert_int_eq(maps_read(&m, getpid()), 0);
    e = maps_at(&m, (raddr_t)(uintptr_t)at);
    ours = e && ours_mapping(o, e);
    maps_release(&m);
    return ours;
}

static unsigned char *map(uint64_t at, size_t len, int prot)
{
    void *p = mmap((void *)(uintptr_t)at, len, prot, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    ck_assert_ptr_ne(p, MAP_FAILED);
    return p;
}

START_TEST(test_nothing)
{
    struct ours o = look();

    ck_assert_uint_eq(o.region_count, 0);
    ck_assert_uint_eq(o.thunk_count, 0);
}
END_TEST

/* Two pages made in one, so that they are neighbours; no name is needed. */
START_TEST(test_thunk)
{
    unsigned char *p = map(0, OURS_THUNK_SIZE, PROT_READ | PROT_WRITE);
    struct ours o;

    ck_assert_int_eq(mprotect(p, MP_PAGE, PROT_READ | PROT_EXEC), 0);
    o = look();
    ck_assert_uint_eq(o.thunk_count, 0);
    memcpy(p + MP_PAGE, THUNK_MAGIC, sizeof(THUNK_MAGIC) - 1);
    o = look();
    ck_assert_uint_eq(o.thunk_count, 1);
    ck_assert_uint_eq(o.thunk[0], (raddr_t)(uintptr_t)p);
    ck_assert(is_ours(&o, p));
    ck_assert(is_ours(&o, p + MP_PAGE));
}
END_TEST

/* What a launcher leaves that is killed right after the kernel's mmap. */
START_TEST(test_blank_region)
{
    const uint64_t place = 0x500000000000ull + MP_REGION_PLACE;
    unsigned char *p = map(place, MP_REGION_SIZE, PROT_READ | PROT_EXEC);
    struct ours o = look();

    ck_assert_uint_eq((uint64_t)(uintptr_t)p, place);
    ck_assert_uint_eq(o.region_count, 1);
    ck_assert(is_ours(&o, p));
    munmap(p, MP_REGION_SIZE);
    map(place, MP_REGION_SIZE + MP_PAGE, PROT_READ | PROT_EXEC); /* of another size: somebody else's */
    o = look();
    ck_assert_uint_eq(o.region_count, 0);
    ck_assert(!is_ours(&o, p));
}
END_TEST

START_TEST(test_blank_region_written)
{
    unsigned char *p = map(0x500000000000ull + MP_REGION_PLACE, MP_REGION_SIZE, PROT_READ | PROT_WRITE);
    struct ours o;

    p[0] = 0xc3; /* a program's own code */
    ck_assert_int_eq(mprotect(p, MP_REGION_SIZE, PROT_READ | PROT_EXEC), 0);
    o = look();
    ck_assert_uint_eq(o.region_count, 0);
}
END_TEST

/* An agent whose memory goes between the look and the word to it has left. */
START_TEST(test_leaves_meanwhile)
{
    struct inject_agent a = {.alive = true};
    struct mp_failure f = {0};
    struct mp_control *c = (struct mp_control *)(void *)map(0, sizeof *c, PROT_READ | PROT_WRITE);

    c->magic = MP_CONTROL_MAGIC;
    c->abi = MP_ABI;
    c->size = sizeof *c;
    a.control = *c;
    a.control_addr = (raddr_t)(uintptr_t)c;
    ck_assert_int_eq(inject_request_detach(getpid(), &a, &f), 0);
    ck_assert_uint_eq(c->detach_request, 1);
    ck_assert_int_eq(mprotect(c, sizeof *c, PROT_READ), 0); /* to be read, and not to be written: as near as it can be brought */
    ck_assert_int_eq(inject_request_detach(getpid(), &a, &f), -MP_E_NOT_INJECTED);
}
END_TEST

/* --- a target that makes it last --------------------------------------------------- */

#define MANY 100

/* As many mappings that bear the agent's name as it likes: a bound on what is looked into. */
START_TEST(test_many_agents)
{
    struct ours_walk walk = {0};
    struct maps m;
    raddr_t at;
    int fd = memfd_create(MP_AGENT_NAME, MFD_CLOEXEC);
    unsigned char *p, *block = map(0, (2 * MANY + 1) * MP_PAGE, PROT_NONE);

    ck_assert_int_eq(ftruncate(fd, MP_PAGE), 0);
    for (int i = 0; i < MANY; i++) { /* with holes, so that they stay apart */
        p = mmap(block + 2 * i * MP_PAGE, MP_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, fd, 0);
        ck_assert_ptr_ne(p, MAP_FAILED);
    }
    ck_assert_int_eq(maps_read(&m, getpid()), 0);
    ck_assert_int_eq(ours_next_control(getpid(), &m, &walk, &at), 0);
    ck_assert_uint_gt(walk.scanned, 8);
    ck_assert_uint_lt(walk.scanned, MANY);
    memcpy(block + 8 * MP_PAGE, &(uint64_t){MP_CONTROL_MAGIC}, 8); /* among the first it is found */
    walk = (struct ours_walk){0};
    ck_assert_int_eq(ours_next_control(getpid(), &m, &walk, &at), 1);
    ck_assert_uint_eq(at, (raddr_t)(uintptr_t)block + 8 * MP_PAGE);
    maps_release(&m);
    close(fd);
}
END_TEST

/* The same of executable memory without a file. */
START_TEST(test_much_code)
{
    size_t len = 1024 * MP_PAGE;
    unsigned char *block = map(0, MANY * (len + MP_PAGE), PROT_NONE), *last;
    struct ours o;

    for (int i = 0; i < MANY; i++)
        ck_assert_int_eq(mprotect(block + i * (len + MP_PAGE), len, PROT_READ | PROT_EXEC), 0);
    last = block + (MANY - 1) * (len + MP_PAGE);
    ck_assert_int_eq(mprotect(last, MP_PAGE, PROT_READ | PROT_WRITE | PROT_EXEC), 0);
    memcpy(last, MP_REGION_MAGIC, sizeof(MP_REGION_MAGIC) - 1);
    o = look();
    ck_assert_uint_eq(o.region_count, 0);
    ck_assert_int_eq(mprotect(block, MP_PAGE, PROT_READ | PROT_WRITE | PROT_EXEC), 0);
    memcpy(block, MP_REGION_MAGIC, sizeof(MP_REGION_MAGIC) - 1);
    o = look();
    ck_assert_uint_eq(o.region_count, 1);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("ours");
    TCase *t = tcase_create("marks");
    SRunner *r = srunner_create(s);
    int failed;

    tcase_add_test(t, test_nothing);
    tcase_add_test(t, test_thunk);
    tcase_add_test(t, test_blank_region);
    tcase_add_test(t, test_blank_region_written);
    tcase_add_test(t, test_leaves_meanwhile);
    tcase_add_test(t, test_many_agents);
    tcase_add_test(t, test_much_code);
    tcase_set_timeout(t, 60);
    suite_add_tcase(s, t);
    srunner_run_all(r, CK_NORMAL);
    failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}
