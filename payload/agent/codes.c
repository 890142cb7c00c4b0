/* Functions, named once.
 *
 *   slot table (by address of a code object)      struct code (by content)
 *   +--------------------------------------+      +---------------------------+
 *   | ptr | name | file | line |  code ----+----> | id, flags, name, file ... |
 *   +--------------------------------------+      +---------------------------+
 *
 * Code objects die and their addresses come back for others. A slot is believed
 * only if name, file and line of the object at that address are still those it
 * was made from; the slot holds references to the two str objects, so that their
 * addresses can't come back. Another code object with the same content (exec in
 * a loop) gets the same struct code.
 * Invariant: struct code never moves and lives to the end of the session. */
#include "agent/python.h"

#define SLOTS_MIN 1024u
#define SLOTS_MAX 65536u
#define BUCKETS 4096u
#define MODULE_LOOKS 256u /* entries of a function's globals, of which __name__ is as a rule the first */

#define CO_GENERATOR 0x20 /* Include/code.h: the same in 3.6 - 3.13 */
#define CO_COROUTINE 0x80
#define CO_ASYNC_GENERATOR 0x200

struct slot {
    const void *ptr; /* NULL: empty. Not owned */
    PyObj *name, *file; /* owned */
    struct code *code;
    int32_t line;
    uint32_t pad;
};

static struct slot *slots;
static uint32_t nslots, used;
static struct code **buckets;
static char name_buf[MP_NAME_MAX], bare_buf[MP_NAME_MAX], module_buf[MP_NAME_MAX], file_buf[MP_PATH_MAX];

struct code code_overflow = { .flags = CODE_SCOPE | CODE_USS_SEEN };

int codes_init(void)
{
    nslots = SLOTS_MIN;
    used = 0;
    slots = mem_map(nslots * sizeof(*slots), true);
    buckets = mem_map(BUCKETS * sizeof(*buckets), true);
    return slots && buckets ? 0 : -SYS_ENOMEM;
}

static inline PyObj *code_name_object(const void *pycode)
{
    uint16_t off = g.layout.code_qualname ? g.layout.code_qualname : g.layout.code_name;

    return FIELD(PyObj *, pycode, off);
}

static inline uint32_t slot_hash(const void *ptr)
{
    return (uint32_t)(((uint64_t)(uintptr_t)ptr * 0x9e3779b97f4a7c15ull) >> 40);
}

/* The slot of ptr, or the empty one where it would go. The table is never full. */
static inline struct slot *slot_of(const void *ptr)
{
    uint32_t i = slot_hash(ptr) & (nslots - 1);

    while (slots[i].ptr && slots[i].ptr != ptr)
        i = (i + 1) & (nslots - 1);
    return &slots[i];
}

static inline bool slot_valid(const struct slot *s, const void *pycode)
{
    return s->name == code_name_object(pycode) && s->file == FIELD(PyObj *, pycode, g.layout.code_file) &&
           s->line == FIELD(int32_t, pycode, g.layout.code_line);
}

struct code *code_known(const void *pycode)
{
    struct slot *s = slot_of(pycode);

    return s->ptr && slot_valid(s, pycode) ? s->code : NULL;
}

static bool slots_grow(void)
{
    struct slot *old = slots, *fresh;
    uint32_t n = nslots;

    if (n >= SLOTS_MAX || !(fresh = mem_map(2 * n * sizeof(*slots), true)))
        return false;
    slots = fresh;
    nslots = 2 * n;
    for (uint32_t i = 0; i < n; i++)
        if (old[i].ptr)
            *slot_of(old[i].ptr) = old[i];
    mem_unmap(old);
    return true;
}

/* Frame globals' __name__, which a module's dictionary begins with. The entries are looked at, and not
 * looked up: that runs code of the target's where a key is of a subclass of str, which may
 * call functions, or give the GIL away and be gone for as long as it likes. */
static size_t module_name(void *globals, bool *cut)
{
    PyObj *key, *value;
    int64_t at = 0;

    if (!globals || !g.str_name)
        return 0;
    for (unsigned n = 0; n < MODULE_LOOKS && py_dict_next(globals, &at, &key, &value); n++)
        if (key == g.str_name)
            return py_type(value) == PY_STR_TYPE ? py_str_copy(value, module_buf, sizeof(module_buf), false, cut) : 0;
    return 0;
}

static uint64_t hash_bytes(uint64_t h, const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++)
        h = (h ^ (unsigned char)s[i]) * 0x100000001b3ull;
    return (h ^ 0xff) * 0x100000001b3ull;
}

static void read_names(const void *pycode, void *globals, struct code_names *n, bool *ret_cut)
{
    bool cut[4] = { false };

    n->name = name_buf;
    n->name_len = py_str_copy(code_name_object(pycode), name_buf, sizeof(name_buf), false, &cut[0]);
    n->bare = name_buf;
    n->bare_len = n->name_len;
    if (g.layout.code_qualname) {
        n->bare = bare_buf;
        n->bare_len = py_str_copy(FIELD(PyObj *, pycode, g.layout.code_name), bare_buf, sizeof(bare_buf), false,
                                  &cut[1]);
    }
    n->file = file_buf;
    n->file_len = py_str_copy(FIELD(PyObj *, pycode, g.layout.code_file), file_buf, sizeof(file_buf), true, &cut[2]);
    n->module = module_buf;
    n->module_len = module_name(globals, &cut[3]);
    *ret_cut = cut[0] || cut[2] || cut[3];
}

static bool same_content(const struct code *c, uint64_t hash, const struct code_names *n, uint32_t line)
{
    return c->hash == hash && c->wire.firstlineno == line && c->wire.name_len == n->name_len &&
           c->wire.file_len == n->file_len && c->wire.module_len == n->module_len &&
           !memcmp(c->text, n->name, n->name_len) && !memcmp(c->text + n->name_len, n->file, n->file_len) &&
           !memcmp(c->text + n->name_len + n->file_len, n->module, n->module_len);
}

static void publish(struct code *c)
{
    if (g.codes_last)
        store_release(&g.codes_last->next, c);
    else
        store_release(&g.codes_head, c);
    g.codes_last = c;
    mp_control_block.codes = g.ncode;
}

static struct code *code_new(const void *pycode, const struct code_names *n, uint64_t hash, bool cut)
{
    int32_t co_flags = FIELD(int32_t, pycode, g.layout.code_flags);
    size_t len = n->name_len + n->file_len + n->module_len;
    struct code *c;

    if (g.ncode >= MP_CODES_MAX || !(c = pool_alloc(sizeof(*c) + len)))
        return &code_overflow;
    if (n->module_len >= 6 && (!memcmp(n->module, "gevent", 6) || !memcmp(n->module, "greenl", 6)))
        g.greenlets = g.no_quiet = true; /* imported since the hook */
    c->id = ++g.ncode;
    c->hash = hash;
    c->flags = scope_flags(n);
    if (co_flags & (CO_GENERATOR | CO_COROUTINE | CO_ASYNC_GENERATOR))
        c->flags |= CODE_GENERATOR;
    c->text_len = (uint32_t)len;
    memcpy(c->text, n->name, n->name_len);
    memcpy(c->text + n->name_len, n->file, n->file_len);
    memcpy(c->text + n->name_len + n->file_len, n->module, n->module_len);
    c->wire = (struct mp_code){
        .id = c->id,
        .firstlineno = FIELD(uint32_t, pycode, g.layout.code_line),
        .flags = (c->flags & CODE_GENERATOR ? MP_CODE_GENERATOR : 0) | (c->flags & CODE_ROOT ? MP_CODE_ROOT : 0) |
                 (cut ? MP_CODE_CUT : 0),
        .name_len = (uint16_t)n->name_len,
        .file_len = (uint16_t)n->file_len,
        .module_len = (uint16_t)n->module_len,
    };
    publish(c);
    return c;
}

static struct code *code_by_content(const void *pycode, void *globals)
{
    uint32_t line = FIELD(uint32_t, pycode, g.layout.code_line);
    struct code_names n;
    struct code *c;
    uint64_t hash;
    bool cut;

    read_names(pycode, globals, &n, &cut);
    hash = hash_bytes(0xcbf29ce484222325ull ^ line, n.name, n.name_len);
    hash = hash_bytes(hash, n.file, n.file_len);
    hash = hash_bytes(hash, n.module, n.module_len);
    for (c = buckets[hash % BUCKETS]; c; c = c->hnext)
        if (same_content(c, hash, &n, line))
            return c;
    c = code_new(pycode, &n, hash, cut);
    if (c->id) {
        c->hnext = buckets[hash % BUCKETS];
        buckets[hash % BUCKETS] = c;
    }
    return c;
}

/* Dropping what the slot holds of it runs no code of the target's, as that of a subclass may. */
static bool has_plain_names(const void *pycode)
{
    return py_type(code_name_object(pycode)) == PY_STR_TYPE &&
           py_type(FIELD(PyObj *, pycode, g.layout.code_file)) == PY_STR_TYPE;
}

/* Makes *s remember pycode. */
static void slot_bind(struct slot *s, const void *pycode, struct code *code)
{
    PyObj *old_name = s->name, *old_file = s->file;

    s->name = code_name_object(pycode);
    s->file = FIELD(PyObj *, pycode, g.layout.code_file);
    py_incref(s->name);
    py_incref(s->file);
    s->line = FIELD(int32_t, pycode, g.layout.code_line);
    s->code = code;
    if (s->ptr) {
        py_decref(old_name);
        py_decref(old_file);
    } else {
        used++;
    }
    s->ptr = pycode;
}

struct code *code_find(const void *pycode, void *globals)
{
    struct slot *s = slot_of(pycode);
    struct code *code;

    if (likely(s->ptr && slot_valid(s, pycode)))
        return s->code;
    if (py_type(pycode) != PY_CODE_TYPE) /* verified at install; a frame without code is not ours to name */
        return &code_overflow;
    code = code_by_content(pycode, globals);
    if (!has_plain_names(pycode))
        return code;
    if (!s->ptr && 2 * used >= nslots) {
        if (!slots_grow() && 4 * used >= 3 * nslots)
            return code;
        s = slot_of(pycode);
    }
    slot_bind(s, pycode, code);
    return code;
}

void codes_release(void)
{
    for (uint32_t i = 0; slots && i < nslots; i++)
        if (slots[i].ptr) {
            py_decref(slots[i].name);
            py_decref(slots[i].file);
            slots[i].ptr = NULL;
        }
    used = 0;
}
