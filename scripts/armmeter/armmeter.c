/* armmeter.c - TCG plugin for qemu-user (plugin API v1) that measures AArch64 work.
 *
 * Counting is per translation block: a block is decoded once when it is translated,
 * and each execution only bumps one per-vcpu counter for that block; classes are summed
 * at exit. Blocks are straight-line code, so this is exact except where a fault leaves
 * a block half-way. Data accesses feed an LRU cache model (L1/L2 per vcpu, L3 shared).
 *
 * The guest calls getpgid(0x5254) to start a region and getpgid(0x5255) to end it (an
 * otherwise harmless syscall that fails with ESRCH); getpgid(0x5256) empties the caches.
 * Each region is reported by itself. Only between regions may the guest's threads be busy.
 *
 * Options: out=FILE  top=N (hottest blocks listed of each region)
 *          l1=KiB:ways  l2=KiB:ways  l3=KiB:ways
 */
#include <inttypes.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* --- the few QEMU plugin entry points used (our own declarations, API version 1) --- */
typedef uint64_t plug_t, u64;
typedef uint32_t meminfo_t;
typedef struct qemu_plugin_tb qtb_t;
typedef struct qemu_plugin_insn qinsn_t;
enum { CB_NO_REGS = 0, MEM_RW = 3 };
typedef void (*exec_fn)(unsigned vcpu, void *data);
typedef void (*mem_fn)(unsigned vcpu, meminfo_t, u64 vaddr, void *data);
typedef void (*sys_fn)(plug_t, unsigned vcpu, int64_t nr, u64, u64, u64, u64, u64, u64, u64, u64);
extern void qemu_plugin_register_vcpu_tb_trans_cb(plug_t, void (*)(plug_t, qtb_t *));
extern void qemu_plugin_register_vcpu_tb_exec_cb(qtb_t *, exec_fn, int, void *);
extern void qemu_plugin_register_vcpu_mem_cb(qinsn_t *, mem_fn, int, int, void *);
extern void qemu_plugin_register_vcpu_syscall_cb(plug_t, sys_fn);
extern void qemu_plugin_register_atexit_cb(plug_t, void (*)(plug_t, void *), void *);
extern size_t qemu_plugin_tb_n_insns(const qtb_t *);
extern u64 qemu_plugin_tb_vaddr(const qtb_t *);
extern qinsn_t *qemu_plugin_tb_get_insn(const qtb_t *, size_t);
extern const void *qemu_plugin_insn_data(const qinsn_t *);
extern unsigned qemu_plugin_mem_size_shift(meminfo_t);
extern bool qemu_plugin_mem_is_store(meminfo_t);
__attribute__((visibility("default"))) int qemu_plugin_version = 1;

/* --- instruction classes ------------------------------------------------------------ */
#define CLASSES(X) X(insns) X(fma_4s) X(fma_2s) X(fma_8h) X(fma_4h) X(fma_2d) X(fma_scalar) \
    X(dot_16b) X(dot_8b) X(mmla_16b) X(mull_8h) X(mull_4s) X(adalp) X(simd_other) X(fp_scalar) X(load) X(load_uops) X(load_bytes) X(store) X(store_uops)    \
    X(store_bytes) X(mem_vuops) X(prefetch) X(branch)
#define AS_ENUM(n) C_##n,
#define AS_NAME(n) #n,
enum { CLASSES(AS_ENUM) NCLASS };
static const char *class_name[] = { CLASSES(AS_NAME) };

static void mem_op(uint32_t *c, bool is_load, unsigned bytes, bool extra_v)
{
    unsigned uops = (bytes + 15) / 16;          /* 16 B per load/store pipe per cycle */
    c[is_load ? C_load : C_store]++;
    c[is_load ? C_load_uops : C_store_uops] += uops;
    c[is_load ? C_load_bytes : C_store_bytes] += bytes;
    if (extra_v) c[C_mem_vuops] += uops;        /* also needs an ASIMD pipe slot */
}

/* Loads and stores (A64 encoding group x1x0). V: SIMD&FP register file. Vector stores
 * and lane/replicating loads use an ASIMD pipe as well (A76/A77/N1 optimisation guides). */
static void decode_mem(uint32_t i, uint32_t *c)
{
    bool V = i >> 26 & 1, L = i >> 22 & 1;
    unsigned size = i >> 30, grp = i >> 27 & 7, opc = i >> 22 & 3;
    if (grp == 5) {                                          /* pair */
        unsigned b = V ? 8u << size : (size == 2 ? 16 : 8);
        mem_op(c, L, b, V && !L);
    } else if (grp == 3 && !(i >> 24 & 1)) {                 /* literal */
        if (!V && size == 3) c[C_prefetch]++;
        else mem_op(c, true, V ? 4u << size : (size == 1 ? 8 : 4), false);
    } else if (grp == 7) {                                   /* single register */
        if (V) {
            unsigned b = opc & 2 ? 16 : 1u << size;
            mem_op(c, opc & 1, b, !(opc & 1));
        } else if (size == 3 && opc == 2) c[C_prefetch]++;
        else {
            bool atomic = (i >> 21 & 1) && !(i >> 24 & 1) && !(i >> 10 & 3);
            mem_op(c, opc != 0 || atomic, 1u << size, false);
            if (atomic) mem_op(c, false, 1u << size, false);
        }
    } else if (grp == 1 && V) {                              /* ld1/st1 families */
        unsigned q = i >> 30 & 1;
        if (!(i >> 24 & 1)) {                                /* multiple structures */
            static const uint8_t regs[16] = { 4, 0, 4, 0, 3, 0, 3, 1, 2, 0, 2 };
            unsigned op = i >> 12 & 15;
            bool interleaved = op == 0 || op == 4 || op == 8;
            mem_op(c, L, regs[op] * (q ? 16 : 8), !L || interleaved);
        } else {                                             /* one lane / replicate */
            unsigned op = i >> 13 & 7, sz = i >> 10 & 3, scale = op >> 1;
            unsigned n = ((op & 1) << 1 | (i >> 21 & 1)) + 1;
            if (scale == 3) scale = sz;
            else if (scale == 2 && (sz & 1)) scale = 3;
            mem_op(c, L, n << scale, true);
        }
    } else if (grp == 1) mem_op(c, L, 1u << size, false);    /* exclusive / acquire-release */
    else mem_op(c, true, 8, false);                          /* rcpc etc.: rare */
}

/* Multiply-adds of 8-bit integers, and of 16-bit ones that 8-bit ones were widened to; NCLASS for
 * any other instruction. A product of smull counts as smlal's does: an adalp adds it up. */
static unsigned integer_class(uint32_t i)
{
    bool q = i >> 30 & 1;
    unsigned size = i >> 22 & 3;
    if ((i & 0x9FE0FC00) == 0x0E809400                       /* sdot, udot */
        || (i & 0xBFE0FC00) == 0x0E809C00                    /* usdot */
        || (i & 0x9FC0F400) == 0x0F80E000                    /* sdot, udot by element */
        || (i & 0xBF40F400) == 0x0F00F000)                   /* sudot, usdot by element */
        return q ? C_dot_16b : C_dot_8b;
    if ((i & 0xDFE0FC00) == 0x4E80A400                       /* smmla, ummla */
        || (i & 0xFFE0FC00) == 0x4E80AC00)                   /* usmmla */
        return C_mmla_16b;
    if ((i & 0x9F3FFC00) == 0x0E206800 && size < 3) return C_adalp;       /* sadalp, uadalp */
    uint32_t vector = i & 0x9F20FC00, element = i & 0x9F00F400;           /* Q: the upper half */
    if (vector == 0x0E208000 || vector == 0x0E20A000 || vector == 0x0E20C000) {
        if (size == 0) return C_mull_8h;                     /* smlal, smlsl, smull and unsigned */
        if (size == 1) return C_mull_4s;
    } else if (size == 1 && (element == 0x0F002000 || element == 0x0F006000 || element == 0x0F00A000))
        return C_mull_4s;                                    /* the same by element */
    return NCLASS;
}

static void decode(uint32_t i, uint32_t *c)
{
    unsigned q = i >> 30 & 1, op0 = i >> 25 & 15;
    c[C_insns]++;
    if ((op0 & 5) == 4) decode_mem(i, c);
    else if ((op0 & 14) == 10) c[C_branch]++;
    else if ((op0 & 7) == 7) {                               /* SIMD & FP data processing */
        unsigned integer = integer_class(i);
        uint32_t v32 = i & 0xBF20FC00, vel = i & 0xBF80B400; /* bit23/14: add or subtract */
        if (v32 == 0x0E20CC00 || vel == 0x0F801000) {
            if (i >> 22 & 1) c[C_fma_2d]++;
            else c[q ? C_fma_4s : C_fma_2s]++;
        } else if ((i & 0xBF60FC00) == 0x0E400C00 || (i & 0xBFC0B400) == 0x0F001000)
            c[q ? C_fma_8h : C_fma_4h]++;
        else if ((i & 0xFF000000) == 0x1F000000 || (i & 0xFF80B400) == 0x5F801000
                 || (i & 0xFFC0B400) == 0x5F001000)
            c[C_fma_scalar]++;
        else if (integer < NCLASS) c[integer]++;
        else if ((i & 0x5F000000) == 0x1E000000) c[C_fp_scalar]++;
        else c[C_simd_other]++;
    }
}

/* --- blocks and per-vcpu state ------------------------------------------------------- */
#define MAX_TB (1u << 22)
#define MAX_VCPU 256
struct tb { u64 vaddr; uint32_t c[NCLASS]; uint32_t n; uint32_t *code; };
struct cache { unsigned sets, ways; u64 *tag; };
struct vcpu {
    u64 *exec;                       /* executions per block, lazily committed */
    struct cache l1, l2;
    u64 miss[3][2];                  /* [level][is_store], in cache lines */
};
/* What ran since the region began. */
struct region { u64 sum[NCLASS], miss[3][2]; unsigned threads, n_hot; struct hot { unsigned tb; u64 exec; } *hot; };
static struct tb *tbs;
static unsigned n_tb, n_vcpu;
static struct vcpu *vcpus[MAX_VCPU];
static struct cache l3;
static unsigned kib[3] = { 64, 512, 4096 }, ways[3] = { 4, 8, 16 };
static volatile bool roi;
static struct region *regions;
static unsigned top = 6, n_regions;
static const char *out = "armmeter.json";
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER, l3_lock = PTHREAD_MUTEX_INITIALIZER;

static void *lazy(size_t bytes)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) abort();
    return p;
}

static void cache_init(struct cache *k, int level)
{
    k->ways = ways[level];
    k->sets = kib[level] * 1024 / 64 / k->ways;
    k->tag = lazy(sizeof(u64) * k->sets * k->ways);
}

static struct vcpu *get_vcpu(unsigned i)
{
    i %= MAX_VCPU;
    if (!vcpus[i]) {
        pthread_mutex_lock(&lock);
        if (!vcpus[i]) {
            struct vcpu *v = calloc(1, sizeof *v);
            v->exec = lazy(sizeof(u64) * MAX_TB);
            cache_init(&v->l1, 0);
            cache_init(&v->l2, 1);
            vcpus[i] = v;
            n_vcpu++;
        }
        pthread_mutex_unlock(&lock);
    }
    return vcpus[i];
}

/* True on hit. Sets are kept in most-recently-used order; a miss allocates. */
static bool touch(struct cache *k, u64 line)
{
    u64 *t = k->tag + (line % k->sets) * k->ways, key = line + 1;
    unsigned w = 0;
    while (w < k->ways && t[w] != key) w++;
    bool hit = w < k->ways;
    for (w = hit ? w : k->ways - 1; w > 0; w--) t[w] = t[w - 1];
    t[0] = key;
    return hit;
}

static void on_mem(unsigned cpu, meminfo_t info, u64 addr, void *unused)
{
    if (!roi) return;
    struct vcpu *v = get_vcpu(cpu);
    unsigned st = qemu_plugin_mem_is_store(info), n = 1u << qemu_plugin_mem_size_shift(info);
    for (u64 line = addr >> 6; line <= (addr + n - 1) >> 6; line++) {
        if (v->l1.tag[(line % v->l1.sets) * v->l1.ways] == line + 1) continue;  /* MRU */
        if (touch(&v->l1, line)) continue;
        v->miss[0][st]++;
        if (touch(&v->l2, line)) continue;
        v->miss[1][st]++;
        pthread_mutex_lock(&l3_lock);
        bool hit = touch(&l3, line);
        pthread_mutex_unlock(&l3_lock);
        if (!hit) v->miss[2][st]++;
    }
}

static void on_tb(unsigned cpu, void *id)
{
    if (roi) get_vcpu(cpu)->exec[(uintptr_t)id]++;
}

static void on_translate(plug_t id, qtb_t *qtb)
{
    size_t n = qemu_plugin_tb_n_insns(qtb);
    unsigned t = __atomic_fetch_add(&n_tb, 1, __ATOMIC_RELAXED);
    if (t >= MAX_TB) { fprintf(stderr, "armmeter: block table full\n"); abort(); }
    struct tb *b = &tbs[t];
    b->vaddr = qemu_plugin_tb_vaddr(qtb);
    b->n = n;
    b->code = malloc(4 * n);
    for (size_t k = 0; k < n; k++) {
        qinsn_t *in = qemu_plugin_tb_get_insn(qtb, k);
        memcpy(&b->code[k], qemu_plugin_insn_data(in), 4);
        decode(b->code[k], b->c);
        if ((b->code[k] >> 25 & 5) == 4)
            qemu_plugin_register_vcpu_mem_cb(in, on_mem, CB_NO_REGS, MEM_RW, NULL);
    }
    qemu_plugin_register_vcpu_tb_exec_cb(qtb, on_tb, CB_NO_REGS, (void *)(uintptr_t)t);
}

/* Every count back to zero; the caches keep their lines. */
static void begin_region(void)
{
    for (unsigned i = 0; i < MAX_VCPU; i++)
        if (vcpus[i]) {
            memset(vcpus[i]->exec, 0, sizeof(u64) * n_tb);
            memset(vcpus[i]->miss, 0, sizeof vcpus[i]->miss);
        }
    roi = true;
}

static void end_region(void)
{
    unsigned nt = n_tb;
    u64 *exec = calloc(nt + 1, sizeof *exec);
    regions = realloc(regions, (n_regions + 1) * sizeof *regions);
    struct region *r = memset(&regions[n_regions++], 0, sizeof *r);
    roi = false;
    for (unsigned i = 0; i < MAX_VCPU; i++) {
        struct vcpu *v = vcpus[i];
        u64 mine = 0;
        if (!v) continue;
        for (unsigned t = 0; t < nt; t++) {
            exec[t] += v->exec[t];
            mine += v->exec[t];
        }
        for (int l = 0; l < 3; l++)
            for (int st = 0; st < 2; st++) r->miss[l][st] += v->miss[l][st];
        r->threads += mine > 0;
    }
    for (unsigned t = 0; t < nt; t++)
        for (int k = 0; k < NCLASS && exec[t]; k++) r->sum[k] += exec[t] * tbs[t].c[k];
    r->hot = calloc(top, sizeof *r->hot);
    while (nt && r->n_hot < top) {                           /* blocks by instructions run */
        unsigned best = 0;
        for (unsigned t = 0; t < nt; t++)
            if (exec[t] * tbs[t].n > exec[best] * tbs[best].n) best = t;
        if (!exec[best]) break;
        r->hot[r->n_hot++] = (struct hot){ best, exec[best] };
        exec[best] = 0;
    }
    free(exec);
}

static void empty(struct cache *k) { memset(k->tag, 0, sizeof *k->tag * k->sets * k->ways); }

static void on_syscall(plug_t id, unsigned cpu, int64_t nr, u64 a1, u64 a2, u64 a3, u64 a4,
                       u64 a5, u64 a6, u64 a7, u64 a8)
{
    if (nr != 155) return;                                   /* getpgid on AArch64 */
    if (a1 == 0x5254) begin_region();
    if (a1 == 0x5255 && roi) end_region();
    if (a1 == 0x5256) {
        for (unsigned i = 0; i < MAX_VCPU; i++)
            if (vcpus[i]) { empty(&vcpus[i]->l1); empty(&vcpus[i]->l2); }
        empty(&l3);
    }
}

static void print_region(FILE *f, const struct region *r)
{
    fprintf(f, "{\"threads\":%u", r->threads);
    for (int k = 0; k < NCLASS; k++) fprintf(f, ",\"%s\":%" PRIu64, class_name[k], r->sum[k]);
    for (int l = 0; l < 3; l++)
        fprintf(f, ",\"l%d_miss\":[%" PRIu64 ",%" PRIu64 "]", l + 1, r->miss[l][0], r->miss[l][1]);
    fprintf(f, ",\"hot\":[");
    for (unsigned h = 0; h < r->n_hot; h++) {
        const struct tb *b = &tbs[r->hot[h].tb];
        fprintf(f, "%s\n{\"vaddr\":\"%#" PRIx64 "\",\"exec\":%" PRIu64 ",\"n\":%u,\"fma_4s\":%u,\"dot_16b\":%u,\"code\":\"",
                h ? "," : "", b->vaddr, r->hot[h].exec, b->n, b->c[C_fma_4s], b->c[C_dot_16b]);
        for (unsigned k = 0; k < b->n; k++) fprintf(f, "%08x", __builtin_bswap32(b->code[k]));
        fprintf(f, "\"}");
    }
    fprintf(f, "]}");
}

static void on_atexit(plug_t id, void *unused)
{
    FILE *f = fopen(out, "w");
    if (!f) { perror(out); return; }
    fprintf(f, "{\"caches\":[");
    for (int l = 0; l < 3; l++) fprintf(f, "%s\"%u:%u\"", l ? "," : "", kib[l], ways[l]);
    fprintf(f, "],\"regions\":[");
    for (unsigned i = 0; i < n_regions; i++) {
        fprintf(f, i ? ",\n" : "\n");
        print_region(f, &regions[i]);
    }
    fprintf(f, "]}\n");
    fclose(f);
}

__attribute__((visibility("default")))
int qemu_plugin_install(plug_t id, const void *info, int argc, char **argv)
{
    for (int a = 0; a < argc; a++) {
        char *o = argv[a];
        if (!strncmp(o, "out=", 4)) out = strdup(o + 4);
        else if (!strncmp(o, "top=", 4)) top = atoi(o + 4);
        else if (o[0] == 'l' && o[1] >= '1' && o[1] <= '3' && o[2] == '=' &&
                 sscanf(o + 3, "%u:%u", &kib[o[1] - '1'], &ways[o[1] - '1']) == 2) continue;
        else { fprintf(stderr, "armmeter: unknown option %s\n", o); return -1; }
    }
    tbs = lazy(sizeof(struct tb) * MAX_TB);
    cache_init(&l3, 2);
    qemu_plugin_register_vcpu_tb_trans_cb(id, on_translate);
    qemu_plugin_register_vcpu_syscall_cb(id, on_syscall);
    qemu_plugin_register_atexit_cb(id, on_atexit, NULL);
    return 0;
}
