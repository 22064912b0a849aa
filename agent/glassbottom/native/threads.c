/* threads.c: where every thread is, and on what it spends its CPU time.
 *
 * One sample: with the GIL, every thread's frames are walked, entered into a tree of call paths of its own (the heap's
 * stays as it is), and summed by path, thread and coroutine. That stands for the wall time between two samples. CPU
 * time is not guessed from it. The kernel keeps a clock for each thread, and only what it says is given out.
 *
 * To which path? Not to the one that happens to be seen: of a server that computes 1 % of the time, 99 samples of 100
 * would put that on the line where it waits. So each clock is read twice, just before the GIL is wanted and when it is
 * had. A thread whose clock moved in between was computing at that moment, and everything it used since it was last
 * seen computing goes to the path it is on. One whose clock stood still keeps what it used until then. Sums by thread
 * are the kernel's, and shares of paths are in proportion to how often a random moment finds them computing.
 *
 * With very many threads a sample looks at a random part of them, each with the same probability, and each seen stands
 * for its share of all. Time with the GIL then has a bound, and sums stay unbiased.
 *
 * Locking: the GIL, for everything but the first reading of the clocks; that one takes `looking`, as a sample does. No
 * Python code runs and nothing is allocated while a sample is taken, so the GIL stays ours and no thread state goes
 * away meanwhile: a thread that ends leaves the list with the GIL.
 */
#include "threads.h"

#include <sched.h>
#include <time.h>

#define THREADS_A_TICK 128u
#define EXCLUDED_MAX 64u
#define SECOND_NS UINT64_C(1000000000)
#define PAUSE_NS (5 * SECOND_NS)

typedef struct {
    uint64_t id;          /* of the thread state; never given twice */
    PyThreadState *ts;    /* only within one sample */
    uint64_t cpu_ns;      /* its CPU clock when last read */
    uint64_t looked_ns;   /* the same just before the GIL was wanted; 0: not read */
    uint64_t unplaced_ns; /* CPU time used since it was last seen computing */
    unsigned long native_id;
    float weight; /* how many threads it stands for in the sample to come; 0: passed over */
    bool is_new;
} seen_thread;

uint32_t gb_threads_known;
static seen_thread *threads, *spare; /* in the order of the interpreter's list, which is that of falling ids */
static uint64_t last_tick_ns, rng;
static atomic_flag looking = ATOMIC_FLAG_INIT;
static uint64_t excluded[EXCLUDED_MAX];
static uint32_t excluded_used;

static void
begin(void)
{
    while (atomic_flag_test_and_set_explicit(&looking, memory_order_acquire))
        sched_yield();
}

static void
end(void)
{
    atomic_flag_clear_explicit(&looking, memory_order_release);
}

/* Of an interpreter that is no more, or not in this process. */
static void
forget(void)
{
    excluded_used = 0;
    gb_threads_known = 0;
    last_tick_ns = 0;
    rng = 0;
    gb_profile_forget();
}

void
gb_threads_after_fork_child(void)
{
    atomic_flag_clear(&looking);
    forget();
}

void
gb_threads_python_ended(void)
{
    begin(); /* the clock's thread may be in the middle of a look */
    forget();
    end();
}

/* ---- the agent's own threads ---------------------------------------------------------------------------------- */

bool
gb_threads_is_excluded(uint64_t id)
{
    for (uint32_t i = 0; i < excluded_used; i++) {
        if (excluded[i] == id)
            return true;
    }
    return false;
}

void
gb_threads_exclude(void)
{
    PyThreadState *own = PyThreadState_Get();
    uint64_t id = PyThreadState_GetID(own);
    if (gb_threads_is_excluded(id) || PyThreadState_GetInterpreter(own) != PyInterpreterState_Main())
        return;
    if (excluded_used == EXCLUDED_MAX) {
        /* Ids are not used again, so those of threads that are gone can go. */
        uint32_t kept = 0;
        PyThreadState *ts = PyInterpreterState_ThreadHead(PyInterpreterState_Main());
        for (; ts != NULL && kept < EXCLUDED_MAX; ts = PyThreadState_Next(ts)) {
            for (uint32_t i = kept; i < EXCLUDED_MAX; i++) {
                if (excluded[i] == PyThreadState_GetID(ts)) {
                    excluded[i] = excluded[kept];
                    excluded[kept++] = PyThreadState_GetID(ts);
                    break;
                }
            }
        }
        excluded_used = kept;
        if (kept == EXCLUDED_MAX)
            return; /* more threads than any agent has: it is seen, which does no harm */
    }
    excluded[excluded_used++] = id;
}

/* ---- one sample ----------------------------------------------------------------------------------------------- */

/* The CPU time of another thread of this process, 0 when it cannot be had: the clock that pthread_getcpuclockid()
 * would name, from the kernel's id of the thread, which does not need the thread to be alive. */
static uint64_t
cpu_clock_nopy(unsigned long native_id)
{
    struct timespec t;
    if (native_id == 0 || clock_gettime((clockid_t)((~(unsigned)native_id << 3) | 6u), &t) != 0)
        return 0;
    return (uint64_t)t.tv_sec * SECOND_NS + (uint64_t)t.tv_nsec;
}

/* Of those that are eligible, takes each with the same probability, at most `most` + 1 of them: a grid with a random
 * start is laid over them. */
static void
choose(uint32_t count, bool only_new, double most)
{
    uint32_t eligible = 0;
    for (uint32_t i = 0; i < count; i++)
        eligible += !only_new || threads[i].is_new;
    double step = (double)eligible <= most ? 1.0 : most / (double)eligible;
    double at = (double)(gb_random_nopy(&rng) >> 11) * 0x1p-53;
    for (uint32_t i = 0; i < count; i++) {
        if (only_new && !threads[i].is_new)
            continue;
        at += step;
        threads[i].weight = at >= 1.0 ? (float)(1.0 / step) : 0.0f;
        at -= at >= 1.0 ? 1.0 : 0.0;
    }
}

/* Brings the list of threads up to date. A thread that was not there at the last sample began after it, so all its CPU
 * time belongs here; unless that is more than has passed: it then ran long before Python knew it. */
static void
meet(gb_profile *g, uint64_t wall_ns, bool afresh)
{
    uint32_t count = 0, before = 0;
    uint64_t met = 0;
    bool some_new = false;
    PyThreadState *ts = PyInterpreterState_ThreadHead(PyInterpreterState_Main());
    for (; ts != NULL; ts = PyThreadState_Next(ts)) {
        uint64_t id = PyThreadState_GetID(ts);
        if (gb_threads_is_excluded(id))
            continue;
        if (++met > GB_THREADS_MAX) {
            g->dropped++;
            if (met > 2 * GB_THREADS_MAX)
                break;
            continue;
        }
        while (before < gb_threads_known && threads[before].id > id)
            before++;
        seen_thread *t = &spare[count++];
        bool known = !afresh && before < gb_threads_known && threads[before].id == id
                     && threads[before].native_id == ts->native_thread_id;
        if (known) {
            *t = threads[before];
        } else {
            uint64_t cpu_ns = cpu_clock_nopy(ts->native_thread_id);
            *t = (seen_thread){.id = id, .native_id = ts->native_thread_id, .is_new = true};
            t->cpu_ns = afresh || cpu_ns > wall_ns ? cpu_ns : 0;
            some_new = true;
        }
        t->ts = ts;
    }
    seen_thread *old = threads;
    threads = spare;
    spare = old;
    gb_threads_known = count;
    if (some_new)
        choose(count, true, THREADS_A_TICK / 2.0);
}

static void
sample_one(gb_profile *g, seen_thread *t, uint64_t wall_ns)
{
    uint64_t cpu_ns = cpu_clock_nopy(t->native_id);
    bool computing = t->looked_ns == 0 || cpu_ns != t->looked_ns;
    if (cpu_ns > t->cpu_ns) {
        t->unplaced_ns += cpu_ns - t->cpu_ns;
        t->cpu_ns = cpu_ns;
    }
    gb_frame frames[GB_FRAMES_MAX];
    bool truncated;
    unsigned n = gb_walk_gil(t->ts, frames, &truncated);
    if (n == 0)
        return; /* between its birth and its first frame, or of a library, and not in Python now */
    PyCodeObject *coroutine = gb_step_code_gil(t->ts->thread_id);
    gb_profile_row sample = {
        .node = gb_intern_locked(&g->paths, frames, n, truncated, gb_label_of_thread(t->ts)),
        .code = coroutine == NULL ? 0 : gb_intern_code_locked(&g->paths, coroutine),
        .ident = t->ts->thread_id,
        .wall_ns = (uint64_t)((double)wall_ns * (double)t->weight),
    };
    if (computing) {
        sample.cpu_ns = t->unplaced_ns;
        t->unplaced_ns = 0;
    }
    gb_profile_add(g, &sample);
}

void
gb_threads_look_nopy(void)
{
    begin();
    for (uint32_t i = 0; i < gb_threads_known; i++) {
        if (threads[i].weight > 0.0f)
            threads[i].looked_ns = cpu_clock_nopy(threads[i].native_id);
    }
    end();
}

/* False, without an exception, where there is no memory: there are then no samples. */
static bool
prepare(void)
{
    if (threads == NULL) {
        threads = gb_profile_map(2 * GB_THREADS_MAX * sizeof(seen_thread));
        spare = threads == NULL ? NULL : threads + GB_THREADS_MAX;
    }
    if (rng == 0) { /* the first in this process, or of this interpreter */
        rng = gb_thread_seed_nopy();
        gb_python_end_install();
    }
    return threads != NULL;
}

void
gb_threads_sample(uint64_t wall_ns)
{
    if (!prepare())
        return;
    begin();
    gb_profile *g = gb_profile_now();
    uint64_t now_ns = gb_monotonic_ns();
    /* After a pause the clocks tell of time that no sample stands for. */
    bool afresh = last_tick_ns == 0 || now_ns - last_tick_ns > 2 * wall_ns + PAUSE_NS;
    last_tick_ns = now_ns;
    meet(g, wall_ns, afresh);
    for (uint32_t i = 0; i < gb_threads_known; i++) {
        if (threads[i].weight > 0.0f)
            sample_one(g, &threads[i], wall_ns);
        threads[i].looked_ns = 0;
        threads[i].is_new = false;
        threads[i].ts = NULL;
    }
    choose(gb_threads_known, false, THREADS_A_TICK);
    g->ticks++;
    end();
}
