/* What the campaign's targets do outside Python: registers whose contents are known,
 * storms of malloc and dlopen, a clock that is read without end. Built by setup.py as a
 * shared library, called through ctypes, so without the interpreter's lock. */
#include <dlfcn.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <x86intrin.h>

#define VECTORS 16
#define SLOTS 256
#define THREADS_MAX 64

struct vectors {
    unsigned char byte[VECTORS][32];
};

#define EACH_VECTOR ".irp i,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n"
#define ALL_VECTORS "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", \
    "xmm12", "xmm13", "xmm14", "xmm15"

static void hold_avx(const struct vectors *in, struct vectors *out, uint64_t turns)
{
    __asm__ volatile(EACH_VECTOR "vmovdqu \\i*32(%[in]), %%ymm\\i\n .endr\n"
                     "1: dec %[turns]\n jnz 1b\n"
                     EACH_VECTOR "vmovdqu %%ymm\\i, \\i*32(%[out])\n .endr\n"
                     "vzeroupper\n"
                     : [turns] "+r"(turns) : [in] "r"(in), [out] "r"(out) : "memory", "cc", ALL_VECTORS);
}

static void hold_sse(const struct vectors *in, struct vectors *out, uint64_t turns)
{
    __asm__ volatile(EACH_VECTOR "movdqu \\i*32(%[in]), %%xmm\\i\n .endr\n"
                     "1: dec %[turns]\n jnz 1b\n"
                     EACH_VECTOR "movdqu %%xmm\\i, \\i*32(%[out])\n .endr\n"
                     : [turns] "+r"(turns) : [in] "r"(in), [out] "r"(out) : "memory", "cc", ALL_VECTORS);
}

/* Known values in the vector registers over so many turns of an empty loop. The number
 * of registers, and of SSE's rounding mode, that came out otherwise. */
int helper_hold_vectors(uint64_t turns, unsigned seed)
{
    struct vectors in, out;
    unsigned was = _mm_getcsr(), odd = (was & ~0x6000u) | 0x4000u; /* rounds up */
    int avx = __builtin_cpu_supports("avx"), wrong = 0;

    for (size_t i = 0; i < sizeof in; i++) {
        seed = seed * 1103515245u + 12345u;
        in.byte[i / 32][i % 32] = (unsigned char)(seed >> 16);
    }
    out = in;
    _mm_setcsr(odd);
    if (avx)
        hold_avx(&in, &out, turns);
    else
        hold_sse(&in, &out, turns);
    wrong = (_mm_getcsr() & 0x6000u) != 0x4000u;
    _mm_setcsr(was);
    for (int i = 0; i < VECTORS; i++)
        wrong += memcmp(in.byte[i], out.byte[i], avx ? 32 : 16) != 0;
    return wrong;
}

/* Integers and floats that only live in registers; the result depends on `turns` alone. */
uint64_t helper_compute(uint64_t turns)
{
    uint64_t a = 1, b = 2, c = 3, bits;
    double x = 1.0, y = 0.5;

    for (uint64_t i = 0; i < turns; i++) {
        a = a * 6364136223846793005ull + 1442695040888963407ull;
        b ^= a >> 7 | b << 9;
        c += b ^ i;
        x = x * 1.0000001 + y;
        y = y * 0.9999999 + 1e-7;
    }
    memcpy(&bits, &x, sizeof bits);
    return a ^ b ^ c ^ bits;
}

/* Reads the clock for so long; the largest gap between two readings in ns. */
uint64_t helper_largest_gap(uint64_t ns)
{
    struct timespec a, b;
    uint64_t begin, last, now, gap = 0;
    int64_t spent;

    clock_gettime(CLOCK_MONOTONIC, &a);
    begin = last = __rdtsc();
    do {
        for (int i = 0; i < 1000; i++) {
            now = __rdtsc();
            if (now - last > gap)
                gap = now - last;
            last = now;
        }
        clock_gettime(CLOCK_MONOTONIC, &b);
        spent = (b.tv_sec - a.tv_sec) * 1000000000ll + (b.tv_nsec - a.tv_nsec);
    } while (spent < (int64_t)ns);
    now = __rdtsc();
    if (now - last > gap)
        gap = now - last;
    return (uint64_t)((double)gap * (double)spent / (double)(now - begin));
}

struct storm {
    unsigned rounds, seed, sum;
};

static unsigned storm_next(unsigned *seed)
{
    *seed = *seed * 1664525u + 1013904223u;
    return *seed >> 8;
}

/* Blocks of all sizes, taken, filled, looked at and given back in a wild order. */
static void *storm_run(void *arg)
{
    struct storm *s = arg;
    struct { unsigned char *at; unsigned size, mark; } slot[SLOTS] = {{0}};

    for (unsigned i = 0; i < s->rounds + SLOTS; i++) {
        unsigned k = i < s->rounds ? storm_next(&s->seed) % SLOTS : i - s->rounds;
        if (slot[k].at) {
            for (unsigned j = 0; j < slot[k].size; j += 61)
                s->sum = s->sum * 31 + slot[k].at[j];
            free(slot[k].at);
            slot[k].at = NULL;
        } else if (i < s->rounds) {
            unsigned r = storm_next(&s->seed);
            slot[k].size = r % 64 ? 1 + r % 3000 : 140000; /* now and then by mmap */
            slot[k].mark = r & 255;
            slot[k].at = malloc(slot[k].size);
            if (slot[k].at)
                memset(slot[k].at, (int)slot[k].mark, slot[k].size);
        }
    }
    return NULL;
}

/* So many threads of it; the checksum depends on the arguments alone. */
unsigned helper_malloc_storm(int threads, unsigned rounds, unsigned seed)
{
    pthread_t id[THREADS_MAX];
    struct storm s[THREADS_MAX];
    unsigned sum = 0;

    for (int i = 0; i < threads; i++)
        s[i] = (struct storm){rounds, seed + (unsigned)i, 0};
    if (threads == 1)
        storm_run(&s[0]); /* in this thread: the process stays single-threaded */
    for (int i = 0; threads > 1 && i < threads; i++)
        if (pthread_create(&id[i], NULL, storm_run, &s[i]))
            return 0;
    for (int i = 0; i < threads; i++) {
        if (threads > 1)
            pthread_join(id[i], NULL);
        sum = sum * 31 + s[i].sum;
    }
    return sum;
}

/* Opens and closes a library again and again; how often that succeeded. */
int helper_dlopen_storm(const char *path, int rounds)
{
    int done = 0;

    for (int i = 0; i < rounds; i++) {
        void *lib = dlopen(path, RTLD_NOW | RTLD_LOCAL);
        done += lib && dlsym(lib, "small_answer");
        if (lib)
            dlclose(lib);
    }
    return done;
}
