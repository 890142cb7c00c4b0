/* Any bytes as what an agent left in a target's memory: boot block, thunk, control block,
 * found by their marks and told by `status`. The "target" is this process; its mappings
 * are listed in maps of our own making.
 *
 *   first byte: FUZZ_* below; two bytes: how many of the rest belong to the boot block;
 *   the others to the control block. */
#include "cmd_status.c" /* for its own functions: what a user sees of the block */

#include <unistd.h>

#include "boot.h"
#include "control.h"
#include "fuzz.h"
#include "inject/inject.h"
#include "inject/ours.h"
#include "thunk_page.h"
#include "inject/room.h"

#define FUZZ_BOOT_HEAD 1u    /* the boot block's first words are as they should be */
#define FUZZ_CONTROL_HEAD 2u /* the control block's, too */
#define FUZZ_MAGIC 4u        /* the region begins with its mark */
#define FUZZ_THUNK 8u        /* so does the thunk's data */
#define FUZZ_SHIFT 16u       /* the control block is not where its mapping begins */
#define FUZZ_ALIVE 32u

/*  region (code and boot block) | thunk code | thunk data | agent's data */
#define THUNK_AT (MP_BOOT_OFF + MP_BOOT_SIZE)
#define AGENT_AT (THUNK_AT + 2 * MP_PAGE)
#define ROOM (AGENT_AT + 8 * MP_PAGE)

static unsigned char *memory;
static struct maps maps;

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    char text[512];
    unsigned long at;

    (void)argc;
    (void)argv;
    memory = fuzz_map(ROOM, PROT_READ | PROT_WRITE);
    at = (uintptr_t)memory;
    snprintf(text, sizeof(text),
             "%lx-%lx r-xp 00000000 00:00 0 \n%lx-%lx r-xp 00000000 00:00 0 \n%lx-%lx rw-p 00000000 00:00 0 \n"
             "%lx-%lx rw-p 00000000 00:01 7 /memfd:" MP_AGENT_NAME " (deleted)\n",
             at, at + THUNK_AT, at + THUNK_AT, at + THUNK_AT + MP_PAGE, at + THUNK_AT + MP_PAGE, at + AGENT_AT,
             at + AGENT_AT, at + ROOM);
    FUZZ_HOLDS(maps_parse(&maps, text, strlen(text)) == 0 && maps.count == 4);
    setenv("TZ", "UTC", 1);
    return 0;
}

static void put_boot(struct fuzz_in *in, unsigned flags, size_t len)
{
    struct mp_boot *b = (struct mp_boot *)(void *)(memory + MP_BOOT_OFF);
    size_t head = flags & FUZZ_BOOT_HEAD ? offsetof(struct mp_boot, phase) : 0;

    if (head)
        *b = (struct mp_boot){.magic = MP_BOOT_MAGIC, .abi = MP_ABI, .size = sizeof(*b),
                              .region_base = (uintptr_t)memory, .region_len = MP_REGION_SIZE};
    fuzz_take(in, (unsigned char *)b + head, len < MP_BOOT_SIZE - head ? len : MP_BOOT_SIZE - head);
}

static void put_control(struct fuzz_in *in, unsigned flags)
{
    struct mp_control *c = (struct mp_control *)(void *)(memory + AGENT_AT + (flags & FUZZ_SHIFT ? 192 : 0));
    size_t head = flags & FUZZ_CONTROL_HEAD ? offsetof(struct mp_control, region_base) : 0;

    if (head)
        *c = (struct mp_control){.magic = MP_CONTROL_MAGIC, .abi = MP_ABI, .size = sizeof(*c)};
    fuzz_take(in, (unsigned char *)c + head, in->left < sizeof(*c) - head ? in->left : sizeof(*c) - head);
}

/* What the user sees is one line, or one JSON object a line, fit to be shown. */
static void check_shown(const struct inject_agent *a, bool json)
{
    FILE *was = stdout;
    char *text = NULL;
    size_t len = 0;

    stdout = open_memstream(&text, &len);
    FUZZ_HOLDS(stdout);
    if (json)
        print_json(1, a);
    else
        print_text(1, a);
    fclose(stdout);
    stdout = was;
    fuzz_shown(text, len, 0);
    FUZZ_HOLDS(len && strchr(text, '\n') == text + len - 1);
    free(text);
}

static void check_boot(void)
{
    struct mp_failure f = {0};
    struct mp_boot b;

    if (inject_read_boot(getpid(), (uintptr_t)memory, &b) < 0)
        return;
    FUZZ_HOLDS(memchr(b.error_text, 0, sizeof(b.error_text)));
    if (room_explain(b.error_text, getpid(), b.error, &f) == 0)
        mp_fail(&f, MP_E_INJECT, b.error, "the agent could not be loaded: %.200s", b.error_text);
    fuzz_shown(f.message, strlen(f.message), 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_in in = {data, size};
    unsigned flags = fuzz_u8(&in), boot_len = fuzz_u16(&in), agents = 0;
    struct ours o;
    raddr_t addr;
    struct ours_walk walk = {0};

    memset(memory, 0, ROOM);
    if (flags & FUZZ_MAGIC)
        memcpy(memory, MP_REGION_MAGIC, sizeof(MP_REGION_MAGIC) - 1);
    if (flags & FUZZ_THUNK)
        memcpy(memory + THUNK_AT + MP_PAGE, THUNK_MAGIC, sizeof(THUNK_MAGIC) - 1);
    put_boot(&in, flags, boot_len);
    put_control(&in, flags);
    ours_find(&o, getpid(), &maps);
    FUZZ_HOLDS(o.region_count <= OURS_REGIONS_MAX && o.thunk_count <= OURS_THUNKS_MAX);
    FUZZ_HOLDS(o.armed_count <= OURS_REGIONS_MAX && o.held_count <= OURS_REGIONS_MAX * MP_HELD_COUNT);
    for (size_t i = 0; i < maps.count; i++)
        (void)ours_mapping(&o, &maps.entry[i]);
    (void)ours_fd(&o, getpid(), 0, "/dev/null");
    while (ours_next_control(getpid(), &maps, &walk, &addr)) {
        struct inject_agent a = {.control_addr = addr, .alive = flags & FUZZ_ALIVE};

        FUZZ_HOLDS(++agents <= maps.count);
        if (ours_read_control(getpid(), addr, &a.control) < 0)
            continue;
        check_shown(&a, false);
        check_shown(&a, true);
    }
    (void)inject_agent_at_work(getpid(), getpid(), &maps);
    check_boot();
    return 0;
}
