/* table.c: the bounded table of live samples: address to size, weight, call path and age.
 *
 * Open addressing with linear probing; removal shifts the cluster back, so there are no tombstones and the cost does
 * not grow with churn. In front of it stands a counting filter that answers "certainly not sampled" in one load: that
 * is all an ordinary raw free pays.
 *
 * When the table fills, the sampling interval doubles and the samples are thinned to what they would have been at the
 * coarser interval. The estimate stays unbiased and the profiler never goes blind, which is what a cap that drops new
 * samples does exactly when there is a leak.
 */
#include "core.h"

#include <sched.h>
#include <string.h>
#include <time.h>

gb_table gb_live;
_Atomic uint8_t gb_filter[GB_FILTER_SLOTS];

static atomic_int lock_word;

void
gb_lock(void)
{
    if (gb_tls.forking)
        return;
    unsigned spins = 0;
    while (atomic_exchange_explicit(&lock_word, 1, memory_order_acquire) != 0) {
        while (atomic_load_explicit(&lock_word, memory_order_relaxed) != 0) {
            /* Its holder may be waiting for our core; and if we outrank it, only sleep lets it run. */
            if (++spins > 1024)
                nanosleep(&(struct timespec){0, 50000}, NULL);
            else if (spins > 64)
                sched_yield();
        }
    }
}

void
gb_unlock(void)
{
    if (gb_tls.forking)
        return;
    atomic_store_explicit(&lock_word, 0, memory_order_release);
}

void
gb_lock_reset(void)
{
    atomic_store_explicit(&lock_word, 0, memory_order_relaxed);
}

/* A counter that reaches 255 stays there: the filter then only says "maybe" too often. */
static void
filter_add(const void *p)
{
    _Atomic uint8_t *c = &gb_filter[gb_hash_pointer(p) >> 50];
    uint8_t n = atomic_load_explicit(c, memory_order_relaxed);
    if (n != UINT8_MAX)
        atomic_store_explicit(c, (uint8_t)(n + 1), memory_order_relaxed);
}

static void
filter_remove(const void *p)
{
    _Atomic uint8_t *c = &gb_filter[gb_hash_pointer(p) >> 50];
    uint8_t n = atomic_load_explicit(c, memory_order_relaxed);
    if (n != UINT8_MAX && n != 0)
        atomic_store_explicit(c, (uint8_t)(n - 1), memory_order_relaxed);
}

static inline uint32_t
home(const void *p)
{
    return (uint32_t)(gb_hash_pointer(p) >> 49) & (GB_TABLE_SLOTS - 1);
}

static uint32_t
find_locked(const void *p)
{
    uint32_t i = home(p);
    while (gb_live.slots[i].ptr != NULL) {
        if (gb_live.slots[i].ptr == p)
            return i;
        i = (i + 1) & (GB_TABLE_SLOTS - 1);
    }
    return GB_TABLE_SLOTS;
}

gb_sample *
gb_table_find_locked(const void *p)
{
    uint32_t i = gb_live.live == 0 ? GB_TABLE_SLOTS : find_locked(p);
    return i == GB_TABLE_SLOTS ? NULL : &gb_live.slots[i];
}

static void
erase_locked(uint32_t hole)
{
    filter_remove(gb_live.slots[hole].ptr);
    gb_live.live--;
    uint32_t i = hole;
    for (;;) {
        i = (i + 1) & (GB_TABLE_SLOTS - 1);
        if (gb_live.slots[i].ptr == NULL)
            break;
        /* An entry may move into the hole unless its home lies cyclically in (hole, i]. */
        uint32_t h = home(gb_live.slots[i].ptr);
        if (((i - h) & (GB_TABLE_SLOTS - 1)) >= ((i - hole) & (GB_TABLE_SLOTS - 1))) {
            gb_live.slots[hole] = gb_live.slots[i];
            hole = i;
        }
    }
    gb_live.slots[hole].ptr = NULL;
}

bool
gb_table_put_locked(const gb_sample *s)
{
    uint32_t stale = find_locked(s->ptr);
    if (stale != GB_TABLE_SLOTS) /* its free was missed: another tool had removed the hook */
        erase_locked(stale);
    if (gb_live.live >= GB_SAMPLES_MAX) {
        gb_live.dropped++;
        return false;
    }
    uint32_t i = home(s->ptr);
    while (gb_live.slots[i].ptr != NULL)
        i = (i + 1) & (GB_TABLE_SLOTS - 1);
    gb_live.slots[i] = *s;
    gb_live.live++;
    gb_live.taken++;
    filter_add(s->ptr);
    return true;
}

bool
gb_table_take_nopy(const void *p, gb_sample *out)
{
    gb_lock();
    uint32_t i = gb_live.live == 0 ? GB_TABLE_SLOTS : find_locked(p);
    bool found = i != GB_TABLE_SLOTS;
    if (found) {
        *out = gb_live.slots[i];
        erase_locked(i);
    }
    gb_unlock();
    return found;
}

void
gb_table_thin_locked(double interval_bytes)
{
    static uint64_t rng;
    if (rng == 0)
        rng = gb_thread_seed_nopy();
    gb_live.thinnings++;
    /* Backwards, because erase moves entries only from later slots of a cluster to earlier ones, never before the hole:
     * what moves has been decided already. Beginning at a free slot, no cluster wraps around the start. */
    uint32_t start = 0;
    while (gb_live.slots[start].ptr != NULL)
        start = (start + 1) & (GB_TABLE_SLOTS - 1);
    for (uint32_t k = GB_TABLE_SLOTS - 1; k > 0; k--) {
        uint32_t i = (start + k) & (GB_TABLE_SLOTS - 1);
        gb_sample *s = &gb_live.slots[i];
        if (s->ptr == NULL)
            continue;
        /* Inside a window of share s the interval is s * R, so that the overall rate is one in R. */
        double target = interval_bytes * (double)s->share;
        if (target <= s->interval_bytes)
            continue;
        double keep = gb_hit_probability_nopy((double)s->size, target)
                      / gb_hit_probability_nopy((double)s->size, s->interval_bytes);
        double u = (double)(gb_random_nopy(&rng) >> 11) * 0x1.0p-53;
        if (u < keep)
            s->interval_bytes = target;
        else
            erase_locked(i);
    }
}

void
gb_table_clear_locked(void)
{
    if (gb_live.slots != NULL && gb_live.live != 0)
        memset(gb_live.slots, 0, GB_TABLE_SLOTS * sizeof(gb_sample));
    gb_live.live = 0;
    for (size_t i = 0; i < GB_FILTER_SLOTS; i++)
        atomic_store_explicit(&gb_filter[i], 0, memory_order_relaxed);
}
