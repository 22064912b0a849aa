/* sampler.c: which allocations are kept, and how much each one stands for.
 *
 * Points fall on the stream of allocated bytes as a Poisson process with one point per `interval` bytes on average. A
 * block is sampled when at least one point falls on it: p = 1 - exp(-size / interval). Since the process has no
 * memory, the distance to the next point may be drawn afresh after every hit, whatever the last block overshot, and
 * also whenever watching starts.
 *
 * A block seen only when a window is open (probability `share`, independent of the program) is sampled with
 * share * p. The Horvitz-Thompson estimate of any sum over live blocks weighs each sample by the inverse of the
 * probability under which it was taken; weights stay doubles. Source: Horvitz & Thompson (1952); for profiles, Go's
 * runtime/pprof and V8's SamplingHeapProfiler use the same p.
 */
#include "core.h"

#include <math.h>
#include <time.h>

gb_rate gb_rate_now = {524288.0, 0.1, 20e6};
atomic_bool gb_sampling = false;
__thread gb_thread gb_tls;

static _Atomic uint64_t seed_sequence;

void
gb_seed(uint64_t seed)
{
    atomic_store(&seed_sequence, seed);
}

/* splitmix64: Steele, Lea & Flood (2014). */
uint64_t
gb_random_nopy(uint64_t *state)
{
    uint64_t z = (*state += UINT64_C(0x9E3779B97F4A7C15));
    z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB);
    return z ^ (z >> 31);
}

uint64_t
gb_thread_seed_nopy(void)
{
    /* Each thread starts from its own point, far from the others': the step differs from splitmix64's own. */
    uint64_t s = atomic_fetch_add(&seed_sequence, UINT64_C(0xD1B54A32D192ED03));
    return gb_random_nopy(&s);
}

int64_t
gb_draw_nopy(uint64_t *state, double mean)
{
    /* In (0, 1]: log() stays finite, and the longest draw is 36 means. */
    double u = (double)((gb_random_nopy(state) >> 11) + 1) * 0x1.0p-53;
    return (int64_t)(-log(u) * mean);
}

double
gb_hit_probability_nopy(double size, double interval_bytes)
{
    return -expm1(-size / interval_bytes);
}

double
gb_weight_nopy(const gb_sample *s)
{
    return 1.0 / ((double)s->share * gb_hit_probability_nopy((double)s->size, s->interval_bytes));
}

uint64_t
gb_monotonic_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

int64_t
gb_realtime_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}
