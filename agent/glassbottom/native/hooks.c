/* hooks.c: the allocator hooks. Where they are put is chain.c's business.
 *
 * Free is not hooked on OBJ and MEM. A small block that is sampled is taken from the raw allocator instead of
 * pymalloc, which hands every address outside its arenas to PyMem_RawFree and PyMem_RawRealloc: there our raw hook
 * sees it go. Blocks above 512 bytes end in the raw allocator anyway. So an ordinary small free costs nothing, and an
 * ordinary raw free one load. The pointer is an ordinary raw block: should another tool replace the allocators, it is
 * freed correctly and only its sample goes stale.
 *
 * malloc, calloc and realloc of OBJ and MEM are hooked only while a window is open; the raw hook stays.
 *
 * The countdown belongs to whoever holds the GIL, and runs on from one window to the next: the process has no memory,
 * so what is left of a draw is as good as a new one.
 *
 * Every (re)allocation is a birth that is decided afresh, whatever was decided before. Given its history, the expected
 * weight of a block is 1 in each of the two ways it can be born (window or raw), so sums stay unbiased although a
 * sampled block takes the raw way when it grows and an unsampled one may not. The call path of a block is that of its
 * last (re)allocation; its birth, which is only age evidence, is carried over while it stays sampled. The table of a
 * dict or set cannot grow in place: it is allocated anew and the old one is freed, which inherit() sees through.
 */
#include "hooks.h"

#include <string.h>

_Atomic uint64_t gb_sample_ns, gb_sample_cost_ns; /* written with the GIL */
_Atomic uint32_t gb_epoch;

gb_slot gb_raw_slots[GB_SLOTS];
gb_slot gb_small_slots[3][GB_SLOTS];

/* ---- windows: what hooks read of them ------------------------------------------------------------------------- */

atomic_bool gb_window_open; /* written by the schedule's thread */
_Atomic uint32_t gb_window_id;
_Atomic double gb_window_share;

/* The countdown: under the GIL. */
int64_t gb_small_left;
static double small_interval; /* under which gb_small_left was drawn */
static uint64_t small_rng;
static int64_t small_drawn; /* bytes seen = drawn - left */

static void
draw_small(void)
{
    int64_t seen = small_drawn - gb_small_left;
    if (small_rng == 0)
        small_rng = gb_thread_seed_nopy();
    /* As dense inside a window as makes one sample per interval overall. */
    small_interval = gb_rate_now.interval_bytes * gb_rate_now.share;
    gb_small_left = gb_draw_nopy(&small_rng, small_interval);
    small_drawn = seen + gb_small_left;
}

void
gb_small_begin(void)
{
    gb_small_left = 0;
    small_drawn = 0;
    small_rng = 0;
    draw_small();
}

uint64_t
gb_window_bytes(void)
{
    return (uint64_t)(small_drawn - gb_small_left);
}

/* ---- taking a sample ------------------------------------------------------------------------------------------ */

/* A sample takes 2 to 20 microseconds. What took longer waited for a CPU, be it the process or the whole virtual machine,
 * or was interrupted: no cost of ours, and on a busy machine the larger part of the time. The thread's CPU clock would
 * not know of the machine's waiting, and is a system call. */
#define COST_NS_MAX UINT64_C(100000)

static inline void
add_relaxed(_Atomic uint64_t *to, uint64_t ns)
{
    atomic_store_explicit(to, atomic_load_explicit(to, memory_order_relaxed) + ns, memory_order_relaxed);
}

static void
record_gil(PyThreadState *ts, void *p, size_t size, double interval, double share, uint32_t window, uint32_t domain,
           const gb_sample *before)
{
    uint64_t t0 = gb_monotonic_ns();
    gb_frame frames[GB_FRAMES_MAX];
    bool truncated;
    unsigned n = gb_walk_gil(ts, frames, &truncated);
    gb_sample s = {
        .ptr = p,
        .size = size == 0 ? 1 : size,
        .birth_ms = before != NULL ? before->birth_ms : gb_realtime_ns() / 1000000,
        .interval_bytes = interval,
        .share = (float)share,
        .window = window,
        .domain = domain,
    };
    double weight = gb_weight_nopy(&s);
    uint32_t label = gb_label_gil(ts);
    if (domain != GB_DOMAIN_RAW)
        gb_tls.small_sampled += weight * (double)s.size;
    gb_lock();
    if (GB_UNLIKELY(gb_live.live >= GB_THIN_AT)) {
        gb_rate_now.interval_bytes *= 2.0;
        gb_table_thin_locked(gb_rate_now.interval_bytes);
    }
    s.node = gb_intern_locked(&gb_stacks, frames, n, truncated, label);
    gb_table_put_locked(&s);
    gb_stacks.nodes[s.node].alloc_bytes += weight * (double)s.size;
    gb_stacks.nodes[s.node].alloc_objects += weight;
    gb_unlock();
    gb_thread *t = &gb_tls;
    t->newest = domain == GB_DOMAIN_RAW && n > 0 ? p : NULL;
    if (t->newest != NULL) {
        t->newest_node = s.node;
        t->newest_left = t->raw_left;
        t->newest_code = frames[0].code;
        t->newest_offset = frames[0].offset;
    }
    uint64_t taken = gb_monotonic_ns() - t0;
    add_relaxed(&gb_sample_ns, taken);
    add_relaxed(&gb_sample_cost_ns, taken < COST_NS_MAX ? taken : COST_NS_MAX);
}

/* ---- raw: always there ---------------------------------------------------------------------------------------- */

static void
raw_event(void *p, size_t size, const gb_sample *before)
{
    gb_thread *t = &gb_tls;
    if (t->probing != GB_PROBE_NONE) {
        t->probe_seen |= t->probing == GB_PROBE_RAW;
        return;
    }
    if (t->busy)
        return;
    double interval = t->raw_interval;
    bool hit = true;
    if (!t->ready) {
        t->ready = true;
        t->rng = gb_thread_seed_nopy();
        /* The first draw of a thread is made at its first allocation, which it therefore covers. */
        interval = gb_rate_now.interval_bytes;
        hit = gb_draw_nopy(&t->rng, interval) < (int64_t)(size == 0 ? 1 : size);
    }
    t->raw_interval = gb_rate_now.interval_bytes;
    int64_t drawn = gb_draw_nopy(&t->rng, t->raw_interval);
    t->raw_drawn += drawn - t->raw_left;
    t->raw_left = drawn;
    if (!hit || t->excluded || !atomic_load_explicit(&gb_sampling, memory_order_relaxed))
        return;
    PyThreadState *ts = gb_thread_state_nopy();
    if (ts == NULL) /* memory of code that runs without the GIL has no Python path */
        return;
    t->busy = true;
    record_gil(ts, p, size, interval, 1.0, 0, GB_DOMAIN_RAW, before);
    t->busy = false;
}

static inline void
raw_seen(void *p, size_t size, const gb_sample *before)
{
    if (GB_UNLIKELY(p == NULL)) /* what was not given is not counted */
        return;
    gb_thread *t = &gb_tls;
    t->raw_left -= (int64_t)(size == 0 ? 1 : size);
    if (GB_UNLIKELY(t->raw_left < 0))
        raw_event(p, size, before);
}

static void *
raw_realloc(const gb_slot *s, void *p, size_t size)
{
    gb_sample before;
    gb_tls.raw_reallocs++;
    /* Forget the address before it can be freed: another thread may be given it the moment that happens. */
    uint32_t epoch = atomic_load(&gb_epoch);
    bool sampled = p != NULL && gb_maybe_sampled_nopy(p) && gb_table_take_nopy(p, &before);
    void *q = s->below.realloc(s->below.ctx, p, size);
    if (q == NULL) {
        if (sampled && size != 0) { /* the old block is still there */
            gb_lock();
            if (epoch == atomic_load(&gb_epoch)) { /* else the tables restarted, and its path is no longer known */
                gb_table_put_locked(&before);
                gb_live.taken--;
            }
            gb_unlock();
        }
        return NULL;
    }
    /* A small block that a window had sampled is a small block still. With a window open, small_realloc() has decided
     * it; with none open its like would not be watched, and nor is it. */
    if (!(sampled && before.domain != GB_DOMAIN_RAW && size - 1 < GB_SMALL_BYTES_MAX))
        raw_seen(q, size, sampled ? &before : NULL);
    return q;
}

/* A sampled block is freed. Where the thread's last raw allocation was a sampled one as large or larger, by the very
 * instruction that frees this one, it takes this one's place: the table of a dict or set that has grown. It is as old as
 * what it replaces. Of C code that does the same with two things, the older one ends here, and little is wrong if its age
 * lives on. Two turns of a loop are told apart by what else is allocated between them. */
static void
inherit(const gb_sample *gone)
{
    gb_thread *t = &gb_tls;
    const void *newest = t->newest;
    if (newest == NULL || t->newest_left != t->raw_left || t->busy)
        return;
    t->newest = NULL;
    PyThreadState *ts = gone->ptr == newest ? NULL : gb_thread_state_nopy();
    if (ts == NULL)
        return;
    gb_frame frames[GB_FRAMES_MAX];
    bool truncated;
    if (gb_walk_gil(ts, frames, &truncated) == 0 || frames[0].code != t->newest_code
        || frames[0].offset != t->newest_offset)
        return;
    gb_lock();
    gb_sample *s = gb_table_find_locked(newest);
    if (s != NULL && s->node == t->newest_node && s->size >= gone->size && s->birth_ms > gone->birth_ms)
        s->birth_ms = gone->birth_ms;
    gb_unlock();
}

static void
raw_forget(void *p)
{
    gb_sample gone;
    if (gb_table_take_nopy(p, &gone))
        inherit(&gone);
}

#define RAW_SLOT(k)                                                                                                    \
    static void *raw##k##_malloc(void *ctx, size_t size)                                                               \
    {                                                                                                                  \
        (void)ctx;                                                                                                     \
        void *p = gb_raw_slots[k].below.malloc(gb_raw_slots[k].below.ctx, size);                                       \
        raw_seen(p, size, NULL);                                                                                       \
        return p;                                                                                                      \
    }                                                                                                                  \
    static void *raw##k##_calloc(void *ctx, size_t n, size_t each)                                                     \
    {                                                                                                                  \
        (void)ctx;                                                                                                     \
        void *p = gb_raw_slots[k].below.calloc(gb_raw_slots[k].below.ctx, n, each);                                    \
        raw_seen(p, n * each, NULL);                                                                                   \
        return p;                                                                                                      \
    }                                                                                                                  \
    static void *raw##k##_realloc(void *ctx, void *p, size_t size)                                                     \
    {                                                                                                                  \
        (void)ctx;                                                                                                     \
        return raw_realloc(&gb_raw_slots[k], p, size);                                                                 \
    }                                                                                                                  \
    static void raw##k##_free(void *ctx, void *p)                                                                      \
    {                                                                                                                  \
        (void)ctx;                                                                                                     \
        if (p != NULL && GB_UNLIKELY(gb_maybe_sampled_nopy(p)))                                                        \
            raw_forget(p);                                                                                             \
        gb_raw_slots[k].below.free(gb_raw_slots[k].below.ctx, p);                                                      \
    }

RAW_SLOT(0)
RAW_SLOT(1)
RAW_SLOT(2)
RAW_SLOT(3)

const PyMemAllocatorEx GB_RAW_HOOKS[GB_SLOTS] = {
    {NULL, raw0_malloc, raw0_calloc, raw0_realloc, raw0_free},
    {NULL, raw1_malloc, raw1_calloc, raw1_realloc, raw1_free},
    {NULL, raw2_malloc, raw2_calloc, raw2_realloc, raw2_free},
    {NULL, raw3_malloc, raw3_calloc, raw3_realloc, raw3_free},
};

/* ---- OBJ and MEM: only in windows ----------------------------------------------------------------------------- */

/* The countdown ended: decides whether this allocation is sampled, and starts the next countdown. *interval is the one
 * under which the ended countdown was drawn. */
static PyThreadState *
small_hit(double *interval)
{
    gb_thread *t = &gb_tls;
    if (t->probing != GB_PROBE_NONE) {
        t->probe_seen |= t->probing == GB_PROBE_SMALL;
        gb_small_left = 0;
        return NULL;
    }
    PyThreadState *ts = gb_thread_state_nopy();
    if (ts == NULL) {
        /* A subinterpreter, perhaps with a GIL of its own: it is not sampled, and must not leave its hit to the main
         * one. It draws from its thread's own numbers. */
        if (t->rng == 0)
            t->rng = gb_thread_seed_nopy();
        int64_t left = gb_draw_nopy(&t->rng, small_interval);
        small_drawn += left - gb_small_left;
        gb_small_left = left;
        return NULL;
    }
    *interval = small_interval;
    draw_small();
    if (!atomic_load_explicit(&gb_window_open, memory_order_relaxed) || t->busy || t->excluded
        || !atomic_load_explicit(&gb_sampling, memory_order_relaxed))
        return NULL;
    return ts;
}

static void
record_small(PyThreadState *ts, void *p, size_t size, double interval, uint32_t domain, const gb_sample *before)
{
    gb_tls.busy = true;
    record_gil(ts, p, size, interval, atomic_load_explicit(&gb_window_share, memory_order_relaxed),
               atomic_load_explicit(&gb_window_id, memory_order_relaxed), domain, before);
    gb_tls.busy = false;
}

/* One byte more than pymalloc serves from its arenas makes it take the block from the raw allocator itself: every tool
 * in the chain sees it born where it will see it die, and pymalloc's own count of such blocks stays right. To the raw
 * sampler these bytes do not exist. */
static void *
small_outside_arenas(const gb_slot *s, bool zeroed)
{
    gb_thread *t = &gb_tls;
    int64_t left = t->raw_left;
    t->busy = true;
    void *p = zeroed ? s->below.calloc(s->below.ctx, 1, GB_SMALL_BYTES_MAX + 1)
                     : s->below.malloc(s->below.ctx, GB_SMALL_BYTES_MAX + 1);
    t->busy = false;
    t->raw_left = left;
    return p;
}

static void *
small_alloc(const gb_slot *s, uint32_t domain, size_t n, size_t each, bool zeroed)
{
    double interval;
    PyThreadState *ts = small_hit(&interval);
    size_t size = n * each;
    void *p = ts == NULL ? NULL : small_outside_arenas(s, zeroed);
    if (p != NULL) {
        record_small(ts, p, size, interval, domain, NULL);
        return p;
    }
    return zeroed ? s->below.calloc(s->below.ctx, n, each) : s->below.malloc(s->below.ctx, size);
}

static bool
sampled_small(const void *p, gb_sample *out)
{
    if (!gb_maybe_sampled_nopy(p))
        return false;
    gb_lock();
    const gb_sample *found = gb_table_find_locked(p);
    bool small = found != NULL && found->domain != GB_DOMAIN_RAW;
    if (small)
        *out = *found;
    gb_unlock();
    return small;
}

/* In a window. A block sampled as small is decided as small again, and returns to the arenas when it is not hit: were
 * it left to the raw sampler, a block that grows within one window would count once where its unseen likes count for
 * 1 / share. */
static void *
small_realloc(const gb_slot *s, uint32_t domain, void *p, size_t size)
{
    if (p == NULL)
        return small_alloc(s, domain, 1, size, false);
    double interval = 0.0;
    PyThreadState *ts = gb_small_left < 0 ? small_hit(&interval) : NULL;
    gb_sample before;
    if (sampled_small(p, &before)) {
        void *q = ts == NULL ? s->below.malloc(s->below.ctx, size) : small_outside_arenas(s, false);
        if (q == NULL)
            return NULL;
        memcpy(q, p, before.size < size ? before.size : size);
        s->below.free(s->below.ctx, p);
        if (ts != NULL)
            record_small(ts, q, size, interval, domain, &before);
        return q;
    }
    uint32_t raw_reallocs = gb_tls.raw_reallocs;
    void *q = s->below.realloc(s->below.ctx, p, size);
    /* A block outside the arenas went through the raw hook and was decided there. */
    if (q == NULL || ts == NULL || gb_tls.raw_reallocs != raw_reallocs)
        return q;
    void *r = small_outside_arenas(s, false);
    if (r == NULL)
        return q;
    memcpy(r, q, size);
    record_small(ts, r, size, interval, domain, NULL);
    s->below.free(s->below.ctx, q);
    return r;
}

/* One subtraction and one branch, then on to what was there before. size - 1 wraps for 0, which pymalloc hands to the
 * raw allocator like large ones. */
#define SMALL_SLOT(name, domain, k)                                                                                    \
    static void *name##k##_malloc(void *ctx, size_t size)                                                              \
    {                                                                                                                  \
        if (GB_LIKELY(size - 1 < GB_SMALL_BYTES_MAX) && GB_UNLIKELY((gb_small_left -= (int64_t)size) < 0))             \
            return small_alloc(&gb_small_slots[domain][k], domain, 1, size, false);                                    \
        return gb_small_slots[domain][k].below.malloc(ctx, size);                                                      \
    }                                                                                                                  \
    static void *name##k##_calloc(void *ctx, size_t n, size_t each)                                                    \
    {                                                                                                                  \
        size_t size = n * each;                                                                                        \
        if (GB_LIKELY(size - 1 < GB_SMALL_BYTES_MAX) && GB_UNLIKELY((gb_small_left -= (int64_t)size) < 0))             \
            return small_alloc(&gb_small_slots[domain][k], domain, n, each, true);                                     \
        return gb_small_slots[domain][k].below.calloc(ctx, n, each);                                                   \
    }                                                                                                                  \
    static void *name##k##_realloc(void *ctx, void *p, size_t size)                                                    \
    {                                                                                                                  \
        if (GB_LIKELY(size - 1 < GB_SMALL_BYTES_MAX)                                                                   \
            && GB_UNLIKELY((gb_small_left -= (int64_t)size) < 0 || gb_maybe_sampled_nopy(p)))                          \
            return small_realloc(&gb_small_slots[domain][k], domain, p, size);                                         \
        return gb_small_slots[domain][k].below.realloc(ctx, p, size);                                                  \
    }

SMALL_SLOT(mem, GB_DOMAIN_MEM, 0)
SMALL_SLOT(mem, GB_DOMAIN_MEM, 1)
SMALL_SLOT(mem, GB_DOMAIN_MEM, 2)
SMALL_SLOT(mem, GB_DOMAIN_MEM, 3)
SMALL_SLOT(obj, GB_DOMAIN_OBJ, 0)
SMALL_SLOT(obj, GB_DOMAIN_OBJ, 1)
SMALL_SLOT(obj, GB_DOMAIN_OBJ, 2)
SMALL_SLOT(obj, GB_DOMAIN_OBJ, 3)

const PyMemAllocatorEx GB_SMALL_HOOKS[3][GB_SLOTS] = {
    {{0}},
    {
        {NULL, mem0_malloc, mem0_calloc, mem0_realloc, NULL},
        {NULL, mem1_malloc, mem1_calloc, mem1_realloc, NULL},
        {NULL, mem2_malloc, mem2_calloc, mem2_realloc, NULL},
        {NULL, mem3_malloc, mem3_calloc, mem3_realloc, NULL},
    },
    {
        {NULL, obj0_malloc, obj0_calloc, obj0_realloc, NULL},
        {NULL, obj1_malloc, obj1_calloc, obj1_realloc, NULL},
        {NULL, obj2_malloc, obj2_calloc, obj2_realloc, NULL},
        {NULL, obj3_malloc, obj3_calloc, obj3_realloc, NULL},
    },
};
