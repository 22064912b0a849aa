/* windows.c: when small blocks are watched.
 *
 * Windows of fixed length stand at exponential gaps on an absolute schedule that knows nothing of the program, and
 * they open and close on time, without the GIL (hooks.c says why that is safe). So an allocation is watched with
 * probability `share` whenever it happens, also in the middle of a call that keeps the GIL for a second. Had changes
 * waited for the GIL, such calls would be watched too seldom or too long, and it is they that allocate.
 *
 * The GIL is taken only a few times a second, to look after the hooks and to learn new types.
 */
#include "core.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <time.h>

#define TYPES_A_TURN 200u
#define CHECK_NS UINT64_C(1000000000)
#define TURN_NS UINT64_C(100000000) /* between checks while the walk through the types is unfinished */
/* After a pause of the whole process (SIGSTOP, suspended laptop) the schedule begins anew. */
#define LATE_NS UINT64_C(10000000000)
#define GIVE_BACK_NS 20000u

uint64_t gb_windows_opened;
uint64_t gb_windows_open_ns;
uint64_t gb_windows_watched_ns;

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t wake;
static bool wake_ready;
static bool interrupted;
static bool running;

/* The schedule, owned by the thread in gb_windows_run(): it advances without the GIL, so it has its own copy of the rate. */
static gb_rate rate;
static bool scheduled_open;
static uint64_t next_change_ns; /* 0: not begun */
static uint64_t gap_rng;
static uint32_t windows_ever;
static uint64_t sampled_to_ns; /* sampling time accounted for */

static void
init_wake(void)
{
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&wake, &attributes);
    pthread_condattr_destroy(&attributes);
    wake_ready = true;
}

static uint64_t
draw_gap_ns(void)
{
    double mean = rate.window_ns * (1.0 - rate.share) / rate.share;
    return (uint64_t)gb_draw_nopy(&gap_rng, mean < 1.0 ? 1.0 : mean);
}

/* Moves the schedule to `now`; true while small blocks are to be watched. */
static bool
schedule_at(uint64_t now)
{
    if (rate.share >= 1.0) {
        next_change_ns = now + CHECK_NS;
        windows_ever += !scheduled_open;
        scheduled_open = true;
        return true;
    }
    if (gap_rng == 0)
        gap_rng = gb_thread_seed_nopy();
    if (next_change_ns == 0 || now > next_change_ns + LATE_NS) {
        /* As if it had been running for ever: perhaps in the middle of a window, else in a gap, which has no memory. */
        double u = (double)(gb_random_nopy(&gap_rng) >> 11) * 0x1.0p-53;
        scheduled_open = u < rate.share;
        windows_ever += scheduled_open;
        next_change_ns = now + (scheduled_open ? 1 + (uint64_t)(u / rate.share * rate.window_ns) : draw_gap_ns());
        sampled_to_ns = atomic_load(&gb_sample_ns);
    }
    while (now >= next_change_ns) {
        if (scheduled_open) {
            /* A window is measured in the program's own time: what sampling took from it is given back. */
            uint64_t sampled = atomic_load(&gb_sample_ns);
            uint64_t taken = sampled - sampled_to_ns;
            sampled_to_ns = sampled;
            if (taken > GIVE_BACK_NS) {
                next_change_ns += taken;
                continue;
            }
        } else {
            sampled_to_ns = atomic_load(&gb_sample_ns);
        }
        scheduled_open = !scheduled_open;
        next_change_ns += scheduled_open ? (uint64_t)rate.window_ns : draw_gap_ns();
        windows_ever += scheduled_open;
    }
    return scheduled_open;
}

/* Sleeps without the GIL until `until`; true when interrupted. */
static bool
sleep_until(uint64_t until)
{
    struct timespec t = {.tv_sec = (time_t)(until / 1000000000u), .tv_nsec = (long)(until % 1000000000u)};
    pthread_mutex_lock(&mutex);
    int status = 0;
    while (!interrupted && status != ETIMEDOUT)
        status = pthread_cond_timedwait(&wake, &mutex, &t);
    bool was = interrupted;
    pthread_mutex_unlock(&mutex);
    return was;
}

static bool
take_interrupt(void)
{
    pthread_mutex_lock(&mutex);
    bool was = interrupted;
    interrupted = false;
    pthread_mutex_unlock(&mutex);
    return was;
}

/* Sets the hooks to what the schedule says; false when the chain changed and must be looked at with the GIL. */
static bool
follow_schedule(uint64_t now, bool may_open, uint64_t *counted_to)
{
    bool due = schedule_at(now); /* goes on while paused, or there would be nothing to sleep until */
    bool open = may_open && due;
    gb_windows_watched_ns += now - *counted_to;
    if (gb_window_is_open())
        gb_windows_open_ns += now - *counted_to;
    *counted_to = now;
    if (open == gb_window_is_open())
        return true;
    if (!open) {
        gb_window_close_nopy();
        return true;
    }
    if (!gb_window_open_nopy(windows_ever, rate.share))
        return false;
    gb_windows_opened++;
    return true;
}

int
gb_windows_run(double seconds)
{
    if (running) {
        PyErr_SetString(PyExc_RuntimeError, "run_windows() is running in another thread already.");
        return -1;
    }
    if (!wake_ready)
        init_wake();
    running = true;
    uint64_t now = gb_monotonic_ns();
    double span_ns = seconds * 1e9;
    uint64_t end = span_ns >= 9e18 ? UINT64_MAX : now + (uint64_t)span_ns;
    uint64_t counted_to = now;
    bool stop = false;
    while (!stop && now < end && atomic_load(&gb_sampling)) {
        if (memcmp(&rate, &gb_rate_now, sizeof rate) != 0) {
            /* Samples carry the share they were taken under, so a window ends with it. */
            follow_schedule(now, false, &counted_to);
            rate = gb_rate_now;
            next_change_ns = 0;
        }
        bool fine = gb_hooks_check();
        bool more = gb_types_step(TYPES_A_TURN);
        uint64_t look = now + (more ? TURN_NS : CHECK_NS);
        Py_BEGIN_ALLOW_THREADS
        do {
            if (!follow_schedule(now, fine, &counted_to) && look > now + TURN_NS)
                look = now + TURN_NS;
            uint64_t until = next_change_ns < look ? next_change_ns : look;
            stop = sleep_until(until < end ? until : end);
            now = gb_monotonic_ns();
        } while (!stop && now < look && now < end);
        Py_END_ALLOW_THREADS
        now = gb_monotonic_ns();
    }
    take_interrupt();
    follow_schedule(now, false, &counted_to);
    running = false;
    return 0;
}

void
gb_windows_interrupt(void)
{
    if (!wake_ready)
        init_wake();
    pthread_mutex_lock(&mutex);
    interrupted = true;
    pthread_cond_broadcast(&wake);
    pthread_mutex_unlock(&mutex);
}

/* An interrupt that nobody waited for belongs to the run before. */
void
gb_windows_begin(void)
{
    take_interrupt();
    gb_windows_opened = gb_windows_open_ns = gb_windows_watched_ns = 0;
    next_change_ns = 0;
}

/* The thread that held the mutex, if any, is not in the child. */
void
gb_windows_after_fork_child(void)
{
    pthread_mutex_init(&mutex, NULL);
    init_wake();
    interrupted = false;
    running = false;
    next_change_ns = 0;
    gap_rng = 0;
}
