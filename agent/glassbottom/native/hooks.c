/* hooks.c: the allocator hooks, and the only place that replaces allocators.
 *
 * Free is not hooked on OBJ and MEM. A small block that is sampled is taken from the raw allocator instead of
 * pymalloc, which hands every address outside its arenas to PyMem_RawFree and PyMem_RawRealloc: there our raw hook
 * sees it go. Blocks above 512 bytes end in the raw allocator anyway. So an ordinary small free costs nothing, and an
 * ordinary raw free one load. The pointer is an ordinary raw block: should another tool replace the allocators, it is
 * freed correctly and only its sample goes stale.
 *
 * malloc, calloc and realloc of OBJ and MEM are hooked only while a window is open; the raw hook stays.
 *
 * Changing allocators under a running process:
 * - An allocator has one ctx for four functions, and we leave its free as it was. So our functions receive the ctx of
 *   what they wrap and find their own state by being distinct functions: one set per slot, made by macro. A reader
 *   that catches the struct half-written sees old and new functions with the same ctx, and any mixture is right.
 * - What a slot wraps is written once, before the slot is first installed, and never changes: a hook in flight, or one
 *   that another tool saved, always calls on correctly. A different allocator below gets another slot.
 * - Who is in the chain and what may be wrapped is decided with the GIL (gb_hooks_check), where other tools change
 *   allocators too. Between checks a window only swaps one known allocator for our hook above it and back, which by
 *   the first two points needs no GIL. It must not: windows that waited for the GIL would open and close late by just
 *   as long as the program keeps it, which is when it allocates. (A tool that replaces an allocator within the twenty
 *   nanoseconds between our look and our store loses that hook; it frees correctly, and the next start heals it.)
 * - A hook is removed only if it is on top. Otherwise it stays and counts in vain: outside windows a hit is no sample.
 *
 * The countdown belongs to whoever holds the GIL, and runs on from one window to the next: the process has no memory,
 * so what is left of a draw is as good as a new one.
 *
 * Every (re)allocation is a birth that is decided afresh, whatever was decided before. Given its history, the expected
 * weight of a block is 1 in each of the two ways it can be born (window or raw), so sums stay unbiased although a
 * sampled block takes the raw way when it grows and an unsampled one may not. The call path of a block is that of its
 * last (re)allocation; its birth, which is only age evidence, is carried over while it stays sampled.
 */
#include "core.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define SLOTS 4

uint64_t gb_hook_losses;
_Atomic uint64_t gb_sample_ns; /* written with the GIL */
uint32_t gb_epoch;
char gb_pause_reason[256];

typedef struct {
    PyMemAllocatorEx below;
    bool used;
} slot;

static slot raw_slots[SLOTS];
static slot small_slots[3][SLOTS]; /* by domain; [0] is not used */

/* ---- windows: what hooks read of them ------------------------------------------------------------------------- */

static atomic_bool window_open; /* written by the schedule's thread */
static _Atomic uint32_t window_id;
static _Atomic double window_share;

/* The countdown: under the GIL. */
static int64_t small_left;
static double small_interval; /* under which small_left was drawn */
static uint64_t small_rng;
static int64_t small_drawn; /* bytes seen = drawn - left */

static void
draw_small(void)
{
    int64_t seen = small_drawn - small_left;
    if (small_rng == 0)
        small_rng = gb_thread_seed_nopy();
    /* As dense inside a window as makes one sample per interval overall. */
    small_interval = gb_rate_now.interval_bytes * gb_rate_now.share;
    small_left = gb_draw_nopy(&small_rng, small_interval);
    small_drawn = seen + small_left;
}

uint64_t
gb_window_bytes(void)
{
    return (uint64_t)(small_drawn - small_left);
}

/* ---- taking a sample ------------------------------------------------------------------------------------------ */

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
    gb_lock();
    if (GB_UNLIKELY(gb_live.live >= GB_THIN_AT)) {
        gb_rate_now.interval_bytes *= 2.0;
        gb_table_thin_locked(gb_rate_now.interval_bytes);
    }
    s.node = gb_intern_locked(frames, n, truncated);
    gb_table_put_locked(&s);
    gb_stacks.nodes[s.node].alloc_bytes += weight * (double)s.size;
    gb_stacks.nodes[s.node].alloc_objects += weight;
    gb_unlock();
    atomic_store_explicit(&gb_sample_ns,
                          atomic_load_explicit(&gb_sample_ns, memory_order_relaxed) + gb_monotonic_ns() - t0,
                          memory_order_relaxed);
}

/* ---- raw: always there ---------------------------------------------------------------------------------------- */

static void
raw_event(void *p, size_t size, const gb_sample *before)
{
    gb_thread *t = &gb_tls;
    if (t->probing) {
        t->probe_seen = true;
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
        hit = gb_draw_nopy(&t->rng, interval) <= (int64_t)size;
    }
    t->raw_interval = gb_rate_now.interval_bytes;
    t->raw_left = gb_draw_nopy(&t->rng, t->raw_interval);
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
    gb_thread *t = &gb_tls;
    t->raw_left -= (int64_t)(size == 0 ? 1 : size);
    if (GB_UNLIKELY(t->raw_left < 0) && p != NULL)
        raw_event(p, size, before);
}

static void *
raw_realloc(const slot *s, void *p, size_t size)
{
    gb_sample before;
    gb_tls.raw_reallocs++;
    /* Forget the address before it can be freed: another thread may be given it the moment that happens. */
    bool sampled = p != NULL && gb_maybe_sampled_nopy(p) && gb_table_take_nopy(p, &before);
    void *q = s->below.realloc(s->below.ctx, p, size);
    if (q == NULL) {
        if (sampled && size != 0) { /* the old block is still there */
            gb_lock();
            gb_table_put_locked(&before);
            gb_live.taken--;
            gb_unlock();
        }
        return NULL;
    }
    raw_seen(q, size, sampled ? &before : NULL);
    return q;
}

static void
raw_forget(void *p)
{
    gb_sample gone;
    gb_table_take_nopy(p, &gone);
}

#define RAW_SLOT(k)                                                                                                    \
    static void *raw##k##_malloc(void *ctx, size_t size)                                                               \
    {                                                                                                                  \
        (void)ctx;                                                                                                     \
        void *p = raw_slots[k].below.malloc(raw_slots[k].below.ctx, size);                                             \
        raw_seen(p, size, NULL);                                                                                       \
        return p;                                                                                                      \
    }                                                                                                                  \
    static void *raw##k##_calloc(void *ctx, size_t n, size_t each)                                                     \
    {                                                                                                                  \
        (void)ctx;                                                                                                     \
        void *p = raw_slots[k].below.calloc(raw_slots[k].below.ctx, n, each);                                          \
        raw_seen(p, n * each, NULL);                                                                                   \
        return p;                                                                                                      \
    }                                                                                                                  \
    static void *raw##k##_realloc(void *ctx, void *p, size_t size)                                                     \
    {                                                                                                                  \
        (void)ctx;                                                                                                     \
        return raw_realloc(&raw_slots[k], p, size);                                                                    \
    }                                                                                                                  \
    static void raw##k##_free(void *ctx, void *p)                                                                      \
    {                                                                                                                  \
        (void)ctx;                                                                                                     \
        if (p != NULL && GB_UNLIKELY(gb_maybe_sampled_nopy(p)))                                                        \
            raw_forget(p);                                                                                             \
        raw_slots[k].below.free(raw_slots[k].below.ctx, p);                                                            \
    }

RAW_SLOT(0)
RAW_SLOT(1)
RAW_SLOT(2)
RAW_SLOT(3)

static const PyMemAllocatorEx RAW_HOOKS[SLOTS] = {
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
    if (t->probing) {
        t->probe_seen = true;
        small_left = 0;
        return NULL;
    }
    /* A subinterpreter with a GIL of its own may be here at the same time; it finds no state and touches nothing. */
    PyThreadState *ts = gb_thread_state_nopy();
    if (ts == NULL)
        return NULL;
    *interval = small_interval;
    draw_small();
    if (!atomic_load_explicit(&window_open, memory_order_relaxed) || t->busy || t->excluded
        || !atomic_load_explicit(&gb_sampling, memory_order_relaxed))
        return NULL;
    return ts;
}

static void
record_small(PyThreadState *ts, void *p, size_t size, double interval, uint32_t domain)
{
    gb_tls.busy = true;
    record_gil(ts, p, size, interval, atomic_load_explicit(&window_share, memory_order_relaxed),
               atomic_load_explicit(&window_id, memory_order_relaxed), domain, NULL);
    gb_tls.busy = false;
}

/* Through the front door, so that every other tool sees this block born where it will see it die. To the raw sampler
 * these bytes do not exist. */
static void *
small_outside_arenas(size_t size, bool zeroed)
{
    gb_thread *t = &gb_tls;
    int64_t left = t->raw_left;
    t->busy = true;
    void *p = zeroed ? PyMem_RawCalloc(1, size) : PyMem_RawMalloc(size);
    t->busy = false;
    t->raw_left = left;
    return p;
}

static void *
small_alloc(const slot *s, uint32_t domain, size_t n, size_t each, bool zeroed)
{
    double interval;
    PyThreadState *ts = small_hit(&interval);
    size_t size = n * each;
    void *p = ts == NULL ? NULL : small_outside_arenas(size, zeroed);
    if (p != NULL) {
        record_small(ts, p, size, interval, domain);
        return p;
    }
    return zeroed ? s->below.calloc(s->below.ctx, n, each) : s->below.malloc(s->below.ctx, size);
}

static void *
small_realloc(const slot *s, uint32_t domain, void *p, size_t size)
{
    if (p == NULL)
        return small_alloc(s, domain, 1, size, false);
    double interval;
    PyThreadState *ts = small_hit(&interval);
    uint32_t before = gb_tls.raw_reallocs;
    void *q = s->below.realloc(s->below.ctx, p, size);
    /* A block outside the arenas went through the raw hook and was decided there. */
    if (q == NULL || ts == NULL || gb_tls.raw_reallocs != before)
        return q;
    void *r = small_outside_arenas(size, false);
    if (r == NULL)
        return q;
    memcpy(r, q, size);
    record_small(ts, r, size, interval, domain);
    s->below.free(s->below.ctx, q);
    return r;
}

/* One subtraction and one branch, then on to what was there before. size - 1 wraps for 0, which pymalloc hands to the
 * raw allocator like large ones. */
#define SMALL_SLOT(name, domain, k)                                                                                    \
    static void *name##k##_malloc(void *ctx, size_t size)                                                              \
    {                                                                                                                  \
        if (GB_LIKELY(size - 1 < GB_SMALL_BYTES_MAX) && GB_UNLIKELY((small_left -= (int64_t)size) < 0))                \
            return small_alloc(&small_slots[domain][k], domain, 1, size, false);                                       \
        return small_slots[domain][k].below.malloc(ctx, size);                                                         \
    }                                                                                                                  \
    static void *name##k##_calloc(void *ctx, size_t n, size_t each)                                                    \
    {                                                                                                                  \
        size_t size = n * each;                                                                                        \
        if (GB_LIKELY(size - 1 < GB_SMALL_BYTES_MAX) && GB_UNLIKELY((small_left -= (int64_t)size) < 0))                \
            return small_alloc(&small_slots[domain][k], domain, n, each, true);                                        \
        return small_slots[domain][k].below.calloc(ctx, n, each);                                                      \
    }                                                                                                                  \
    static void *name##k##_realloc(void *ctx, void *p, size_t size)                                                    \
    {                                                                                                                  \
        if (GB_LIKELY(size - 1 < GB_SMALL_BYTES_MAX) && GB_UNLIKELY((small_left -= (int64_t)size) < 0))                \
            return small_realloc(&small_slots[domain][k], domain, p, size);                                            \
        return small_slots[domain][k].below.realloc(ctx, p, size);                                                     \
    }

SMALL_SLOT(mem, GB_DOMAIN_MEM, 0)
SMALL_SLOT(mem, GB_DOMAIN_MEM, 1)
SMALL_SLOT(mem, GB_DOMAIN_MEM, 2)
SMALL_SLOT(mem, GB_DOMAIN_MEM, 3)
SMALL_SLOT(obj, GB_DOMAIN_OBJ, 0)
SMALL_SLOT(obj, GB_DOMAIN_OBJ, 1)
SMALL_SLOT(obj, GB_DOMAIN_OBJ, 2)
SMALL_SLOT(obj, GB_DOMAIN_OBJ, 3)

static const PyMemAllocatorEx SMALL_HOOKS[3][SLOTS] = {
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

/* ---- who is in the chain -------------------------------------------------------------------------------------- */

static bool
same_allocator(const PyMemAllocatorEx *a, const PyMemAllocatorEx *b)
{
    return a->ctx == b->ctx && a->malloc == b->malloc && a->calloc == b->calloc && a->realloc == b->realloc
           && a->free == b->free;
}

static bool
from_python(void *(*function)(void *, size_t))
{
    Dl_info python, info;
    return dladdr((void *)(uintptr_t)&PyObject_Malloc, &python) != 0 && dladdr((void *)(uintptr_t)function, &info) != 0
           && info.dli_fbase == python.dli_fbase;
}

/* Only allocators known to pass a pointer they have not seen down to pymalloc may be wrapped: one that adds its own
 * header to blocks would choke on ours. */
static bool
may_wrap(const PyMemAllocatorEx *a, const char *domain)
{
    if (from_python(a->malloc))
        return true;
    Dl_info info;
    if (dladdr((void *)(uintptr_t)a->malloc, &info) == 0) {
        snprintf(gb_pause_reason, sizeof gb_pause_reason, "The %s allocator belongs to no known library.", domain);
        return false;
    }
    static const char *const KNOWN[] = {"_memalloc", "_memray",     "memray", "scalene",
                                        "pyroscope", "glassbottom", "gbfloor"};
    const char *name = info.dli_fname == NULL ? "" : strrchr(info.dli_fname, '/');
    name = name == NULL ? "" : name;
    for (size_t i = 0; i < sizeof(KNOWN) / sizeof(*KNOWN); i++) {
        if (strstr(name, KNOWN[i]) != NULL)
            return true;
    }
    snprintf(
        gb_pause_reason, sizeof gb_pause_reason,
        "Another tool (%.80s) replaced the %s allocator and is not known to be safe to stand on; stop it to go on.",
        name[0] == '/' ? name + 1 : name, domain);
    return false;
}

/* A slot that wraps this allocator, or -1. A new one must first show that it hands a raw block's free to our raw hook. */
static int
slot_for(slot slots[SLOTS], const PyMemAllocatorEx *below)
{
    for (int k = 0; k < SLOTS; k++) {
        if (slots[k].used && same_allocator(&slots[k].below, below))
            return k;
    }
    for (int k = 0; k < SLOTS; k++) {
        if (!slots[k].used) {
            slots[k].below = *below;
            slots[k].used = true;
            return k;
        }
    }
    snprintf(gb_pause_reason, sizeof gb_pause_reason,
             "Other tools replaced the allocators in more than %d different ways; restart the process to go on.",
             SLOTS);
    return -1;
}

static int
our_slot(const PyMemAllocatorEx hooks[SLOTS], const PyMemAllocatorEx *a)
{
    for (int k = 0; k < SLOTS; k++) {
        if (a->malloc == hooks[k].malloc)
            return k;
    }
    return -1;
}

/* Asks the chain itself: an allocation that our hook must notice if it is anywhere in it. */
static bool
chain_has_raw_hook(void)
{
    gb_thread *t = &gb_tls;
    int64_t left = t->raw_left;
    t->probing = true;
    t->probe_seen = false;
    t->raw_left = 0;
    void *p = PyMem_RawMalloc(1);
    t->probing = false;
    t->raw_left = left;
    PyMem_RawFree(p);
    return t->probe_seen;
}

static bool
chain_has_small_hook(PyMemAllocatorDomain domain)
{
    gb_thread *t = &gb_tls;
    int64_t left = small_left;
    t->probing = true;
    t->probe_seen = false;
    small_left = 0;
    void *p = domain == PYMEM_DOMAIN_MEM ? PyMem_Malloc(1) : PyObject_Malloc(1);
    t->probing = false;
    small_left = left;
    domain == PYMEM_DOMAIN_MEM ? PyMem_Free(p) : PyObject_Free(p);
    return t->probe_seen;
}

/* ---- raw: install, check -------------------------------------------------------------------------------------- */

bool
gb_raw_install(void)
{
    PyMemAllocatorEx top;
    PyMem_GetAllocator(PYMEM_DOMAIN_RAW, &top);
    if (our_slot(RAW_HOOKS, &top) >= 0 || chain_has_raw_hook())
        return true;
    if (!may_wrap(&top, "raw"))
        return false;
    int k = slot_for(raw_slots, &top);
    if (k < 0)
        return false;
    PyMemAllocatorEx hook = RAW_HOOKS[k];
    hook.ctx = top.ctx;
    PyMem_SetAllocator(PYMEM_DOMAIN_RAW, &hook);
    return true;
}

/* Puts the raw hook back when another tool removed it; the tables restart then. */
static bool
raw_check(void)
{
    PyMemAllocatorEx top;
    PyMem_GetAllocator(PYMEM_DOMAIN_RAW, &top);
    if (our_slot(RAW_HOOKS, &top) >= 0 || chain_has_raw_hook())
        return true;
    /* Frees went by unseen, so no sample can be trusted any more. */
    gb_hook_losses++;
    gb_epoch++;
    gb_lock();
    gb_table_clear_locked();
    gb_stacks_clear_locked();
    gb_unlock();
    return gb_raw_install();
}

/* ---- OBJ and MEM: what may be wrapped, decided with the GIL --------------------------------------------------- */

/* What gb_window_swap() may do without the GIL until the next check. */
typedef struct {
    PyMemAllocatorEx top; /* the allocator seen */
    int slot;             /* our slot above `top`; -1: our hook is buried below it already */
} plan;
static plan plans[3];
static pthread_mutex_t swap_mutex = PTHREAD_MUTEX_INITIALIZER; /* guards plans, and every change of OBJ and MEM */

/* Lets the allocator free a raw block, as it will have to free every sampled one, and looks whether we saw it. */
static bool
frees_reach_raw(const PyMemAllocatorEx *a)
{
    void *p = PyMem_RawMalloc(GB_SMALL_BYTES_MAX);
    if (p == NULL)
        return false;
    gb_sample s = {.ptr = p, .size = 1, .interval_bytes = 1.0, .share = 1.0f, .node = GB_NODE_NATIVE};
    gb_lock();
    bool put = gb_table_put_locked(&s);
    gb_live.taken -= put;
    gb_unlock();
    a->free(a->ctx, p);
    bool missed = put && gb_table_take_nopy(p, &s);
    if (missed)
        snprintf(gb_pause_reason, sizeof gb_pause_reason, "%s",
                 "This process frees small blocks past the raw allocator (PYTHONMALLOC=malloc, or another allocator).");
    return put && !missed;
}

static bool
make_plan(PyMemAllocatorDomain domain)
{
    PyMemAllocatorEx top;
    PyMem_GetAllocator(domain, &top);
    int k = our_slot(SMALL_HOOKS[domain], &top);
    if (k >= 0) {
        plans[domain] = (plan){small_slots[domain][k].below, k};
        return true;
    }
    if (chain_has_small_hook(domain)) {
        plans[domain] = (plan){top, -1};
        return true;
    }
    if (!may_wrap(&top, domain == PYMEM_DOMAIN_MEM ? "mem" : "obj"))
        return false;
    bool known = false;
    for (k = 0; k < SLOTS; k++)
        known |= small_slots[domain][k].used && same_allocator(&small_slots[domain][k].below, &top);
    if (!known && !frees_reach_raw(&top))
        return false;
    k = slot_for(small_slots[domain], &top);
    plans[domain] = (plan){top, k};
    return k >= 0;
}

bool
gb_hooks_check(void)
{
    pthread_mutex_lock(&swap_mutex);
    gb_pause_reason[0] = '\0';
    bool fine = raw_check() && make_plan(PYMEM_DOMAIN_MEM) && make_plan(PYMEM_DOMAIN_OBJ);
    pthread_mutex_unlock(&swap_mutex);
    return fine;
}

/* ---- windows: open, close; without the GIL -------------------------------------------------------------------- */

static bool
swap_in(PyMemAllocatorDomain domain)
{
    PyMemAllocatorEx top;
    PyMem_GetAllocator(domain, &top);
    if (our_slot(SMALL_HOOKS[domain], &top) >= 0)
        return true;
    const plan *p = &plans[domain];
    if (!same_allocator(&top, &p->top))
        return false; /* somebody came or went since the check */
    if (p->slot >= 0) {
        PyMemAllocatorEx hook = SMALL_HOOKS[domain][p->slot];
        hook.ctx = top.ctx;
        hook.free = top.free;
        PyMem_SetAllocator(domain, &hook);
    }
    return true;
}

static void
swap_out(PyMemAllocatorDomain domain)
{
    PyMemAllocatorEx top;
    PyMem_GetAllocator(domain, &top);
    int k = our_slot(SMALL_HOOKS[domain], &top);
    if (k >= 0)
        PyMem_SetAllocator(domain, &small_slots[domain][k].below);
}

bool
gb_window_open_nopy(uint32_t id, double share)
{
    pthread_mutex_lock(&swap_mutex);
    bool fine = atomic_load(&gb_sampling) && swap_in(PYMEM_DOMAIN_MEM) && swap_in(PYMEM_DOMAIN_OBJ);
    if (fine) {
        atomic_store(&window_id, share < 1.0 ? id : 0);
        atomic_store(&window_share, share);
        atomic_store(&window_open, true);
    } else {
        swap_out(PYMEM_DOMAIN_MEM);
    }
    pthread_mutex_unlock(&swap_mutex);
    return fine;
}

void
gb_window_close_nopy(void)
{
    pthread_mutex_lock(&swap_mutex);
    atomic_store(&window_open, false);
    swap_out(PYMEM_DOMAIN_OBJ);
    swap_out(PYMEM_DOMAIN_MEM);
    pthread_mutex_unlock(&swap_mutex);
}

bool
gb_window_is_open(void)
{
    return atomic_load(&window_open);
}

void
gb_hooks_remove(void)
{
    gb_window_close_nopy();
    PyMemAllocatorEx top;
    PyMem_GetAllocator(PYMEM_DOMAIN_RAW, &top);
    int k = our_slot(RAW_HOOKS, &top);
    if (k >= 0)
        PyMem_SetAllocator(PYMEM_DOMAIN_RAW, &raw_slots[k].below);
}

void
gb_hooks_before_start(void)
{
    small_left = 0;
    small_drawn = 0;
    small_rng = 0;
    draw_small();
}

/* Nobody may be in the middle of a swap when the process is copied. */
void
gb_hooks_before_fork(void)
{
    pthread_mutex_lock(&swap_mutex);
}

void
gb_hooks_after_fork_parent(void)
{
    pthread_mutex_unlock(&swap_mutex);
}

/* The forking thread's hooks are copied as they were; the schedule's thread is not. */
void
gb_hooks_after_fork_child(void)
{
    pthread_mutex_init(&swap_mutex, NULL);
    atomic_store(&window_open, false);
    small_rng = 0;
    gb_tls.ready = false;
    gb_tls.raw_left = 0;
    gb_tls.busy = false;
    gb_tls.excluded = false;
}

/* ---- may we at all -------------------------------------------------------------------------------------------- */

const char *
gb_refusal(void)
{
#ifdef GB_UNSUPPORTED
    return GB_UNSUPPORTED;
#else
    static char text[256];
    if ((Py_Version >> 16) != (PY_VERSION_HEX >> 16)) {
        snprintf(text, sizeof text, "The agent was built for CPython %d.%d and runs in another version; reinstall it.",
                 PY_MAJOR_VERSION, PY_MINOR_VERSION);
        return text;
    }
#ifdef Py_DEBUG
    return "Heap sampling does not run on a debug build of CPython: its allocators add headers to blocks.";
#else
    PyThreadState *ts = PyThreadState_Get();
    if (ts->interp != PyInterpreterState_Main())
        return "Heap sampling runs only in the main interpreter.";
    PyMemAllocatorEx raw, mem, obj;
    PyMem_GetAllocator(PYMEM_DOMAIN_RAW, &raw);
    PyMem_GetAllocator(PYMEM_DOMAIN_MEM, &mem);
    PyMem_GetAllocator(PYMEM_DOMAIN_OBJ, &obj);
    const char *env = getenv("PYTHONMALLOC");
    /* One function of CPython's own for raw and objects: PYTHONMALLOC=malloc or the debug hooks, set without the
     * environment. */
    if ((raw.malloc == obj.malloc && from_python(obj.malloc)) || (raw.malloc == mem.malloc && from_python(mem.malloc))
        || (env != NULL && env[0] != '\0' && strcmp(env, "pymalloc") != 0 && strcmp(env, "default") != 0)) {
        return "Heap sampling needs CPython's ordinary allocator; PYTHONMALLOC, -X dev or another allocator changed it.";
    }
    PyObject *flags = PySys_GetObject("flags");
    PyObject *dev = flags == NULL ? NULL : PyObject_GetAttrString(flags, "dev_mode");
    bool dev_mode = dev != NULL && PyObject_IsTrue(dev) == 1;
    Py_XDECREF(dev);
    PyErr_Clear();
    if (dev_mode)
        return "Heap sampling needs CPython's ordinary allocator; PYTHONMALLOC, -X dev or another allocator changed it.";
    return NULL;
#endif
#endif
}
