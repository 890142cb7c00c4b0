/* What the campaign's targets do outside Python: registers whose contents are known,
 * storms of malloc and dlopen, a clock that is read without end. Built by setup.py as a
 * shared library, called through ctypes, so without the interpreter's lock. */
#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>
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

/* ---- restartable sequences -------------------------------------------------------------- */

struct rseq_abi { /* linux/rseq.h: struct rseq, of which glibc registers one for each thread */
    uint32_t cpu_id_start, cpu_id;
    uint64_t critical;
};

#define RSEQ_SPIN 4000 /* turns within a sequence: almost all of the time is spent there */
#define CPUS_MAX 1024
#define LINE 64

struct counters {
    struct { volatile uint64_t n; char rest[LINE - 8]; } cpu[CPUS_MAX];
};

struct rseq_job {
    struct counters *c;
    ptrdiff_t offset;
    unsigned rounds;
};

/* One more on this CPU's counter, read long before it is written; 0 when that was
 * interrupted and did not happen. */
static int rseq_count(struct rseq_abi *r, struct counters *c)
{
    int done;
    uint64_t spin = RSEQ_SPIN;

    __asm__ volatile(".pushsection .data.rel.local, \"aw\"\n .balign 32\n"
                     "3: .long 0, 0\n .quad 1f, 2f - 1f, 4f\n .popsection\n"
                     "lea 3b(%%rip), %%rax\n mov %%rax, 8(%[r])\n"
                     "1: mov 4(%[r]), %%eax\n shl $6, %%rax\n mov (%[c], %%rax), %%rdx\n"
                     "5: dec %[spin]\n jnz 5b\n"
                     "inc %%rdx\n mov %%rdx, (%[c], %%rax)\n"
                     "2: mov $1, %[done]\n jmp 6f\n"
                     ".byte 0x0f, 0xb9, 0x3d\n .long 0x53053053\n" /* the signature in front of an abort handler */
                     "4: xor %[done], %[done]\n"
                     "6: movq $0, 8(%[r])\n"
                     : [done] "=&r"(done), [spin] "+r"(spin) : [r] "r"(r), [c] "r"(c) : "rax", "rdx", "memory", "cc");
    return done;
}

static void *rseq_run(void *arg)
{
    struct rseq_job *job = arg;
    struct rseq_abi *r;

    __asm__("mov %%fs:0, %0" : "=r"(r));
    r = (struct rseq_abi *)((char *)r + job->offset);
    for (unsigned i = 0; i < job->rounds;)
        i += (unsigned)rseq_count(r, job->c);
    return NULL;
}

/* Two threads and this one count on their CPU's counter; what is missing at the end, which
 * is nothing, or -1 where glibc (before 2.35) has no sequences. */
int64_t helper_rseq_storm(unsigned rounds)
{
    const ptrdiff_t *offset = dlsym(RTLD_DEFAULT, "__rseq_offset");
    const unsigned *size = dlsym(RTLD_DEFAULT, "__rseq_size");
    struct counters *c;
    struct rseq_job job;
    pthread_t id[2];
    uint64_t sum = 0;
    int started = 0;

    if (!offset || !size || !*size || posix_memalign((void **)&c, LINE, sizeof *c))
        return -1;
    memset(c, 0, sizeof *c);
    job = (struct rseq_job){c, *offset, rounds};
    while (started < 2 && !pthread_create(&id[started], NULL, rseq_run, &job))
        started++;
    rseq_run(&job);
    for (int i = 0; i < started; i++)
        pthread_join(id[i], NULL);
    for (int i = 0; i < CPUS_MAX; i++)
        sum += c->cpu[i].n;
    free(c);
    return (int64_t)(started + 1) * rounds - (int64_t)sum;
}

/* ---- a coroutine's stack ----------------------------------------------------------------- */

#define POOL 65536
#define SMALL 2048

static void wait_here(void)
{
    struct timespec ts = {0, 2000000};

    nanosleep(&ts, NULL);
}

/* Waits in nanosleep on a small stack in the midst of other data; how many bytes of that changed. */
int helper_on_small_stack(void)
{
    unsigned char *pool = malloc(POOL);
    ucontext_t here, there;
    int wrong = 0;

    if (!pool || getcontext(&there))
        return -1;
    memset(pool, 0x5a, POOL);
    there.uc_stack.ss_sp = pool + POOL / 2;
    there.uc_stack.ss_size = SMALL;
    there.uc_link = &here;
    makecontext(&there, wait_here, 0);
    swapcontext(&here, &there);
    for (int i = 0; i < POOL; i++)
        wrong += pool[i] != 0x5a && (i < POOL / 2 || i >= POOL / 2 + SMALL);
    free(pool);
    return wrong;
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

/* ---- a process that ends itself --------------------------------------------------------- */

static void end_here(int number)
{
    char *const argv[] = {"sleep", "300", NULL};

    if (number == SIGUSR1)
        _exit(7);
    if (number == SIGUSR2)
        execv("/bin/sleep", argv);
    abort();
}

/* Preloaded, with CAMPAIGN_ENDS set: a signal is answered on whichever thread takes it, and
 * no interpreter is asked (src/base/fault.c sends them: exit, exec, crash). */
__attribute__((constructor)) static void end_on_signals(void)
{
    if (!getenv("CAMPAIGN_ENDS"))
        return;
    signal(SIGUSR1, end_here);
    signal(SIGUSR2, end_here);
    signal(SIGSEGV, end_here);
}
