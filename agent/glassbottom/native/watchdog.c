/* watchdog.c: what holds an event loop, seen while it does; and the clock that samples threads.
 *
 * Two threads of the agent's run here. The watchdog never takes the GIL, so nothing the program does can stop it: every
 * 25 ms it looks at the records of steps.c for a step that has run too long, and opens a block. The clock waits without
 * the GIL and takes it only to act: to take the stack of a block that was opened, and to sample threads. How long it
 * waits for the GIL tells who has it: when the clock cannot have it for 50 ms, native code is holding it. The stack
 * is then taken at the first moment the GIL is let go, which for a call into C is the very instruction that called. Other
 * threads want the GIL at that moment too, and one of them may get it; so the main thread, where most loops run, is also
 * asked to take its own stack there, by a pending call.
 */
#include "steps.h"

#include <errno.h>
#include <pthread.h>
#include <time.h>
#include <unistd.h>

#define LOOK_EVERY_NS UINT64_C(25000000)
/* Behind by more than this, the schedule begins anew: the process was stopped. */
#define LATE_NS UINT64_C(1000000000)
#define NEVER_NS (UINT64_MAX / 2)
#define PATIENCE_NS UINT64_C(5000000000)

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t wake_watchdog, wake_clock;
static bool conditions_ready;

/* Under the mutex, which is held for a look at these. */
static bool capture_wanted;
static bool watchdog_interrupted, clock_interrupted;

static bool watchdog_running, clock_running; /* with the GIL */
static atomic_bool main_thread_asked;        /* and has not answered yet */
static uint64_t threshold_ns = UINT64_C(100000000);
static bool threshold_in_force;        /* a watchdog has run since steps began */
static _Atomic uint64_t sample_gap_ns; /* mean; 0: threads are not sampled */

static atomic_bool sample_wanted, sample_asked; /* asked: the main thread has been, and has not answered yet */

/* Of the clock, with the GIL. */
static uint64_t ticks, gil_waits, gil_wait_ns, gil_wait_ns_max, held_ns;
static uint64_t sampled_ns; /* the time up to here is in samples */
static uint64_t clock_gap, clock_next = NEVER_NS, clock_left_ns;

/* How many interpreters have come to their end in this process. */
static _Atomic uint32_t ends_of_python;

static void
init_conditions(void)
{
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&wake_watchdog, &attributes);
    pthread_cond_init(&wake_clock, &attributes);
    pthread_condattr_destroy(&attributes);
    conditions_ready = true;
}

/* At a safe point of the main thread, between two instructions; with the GIL. */
static int
capture_in_main_thread(void *unused)
{
    (void)unused;
    atomic_store(&main_thread_asked, false);
    gb_blocks_capture(gb_monotonic_ns());
    return 0;
}

/* Looks at every thread's step. Without the GIL. True while there is a block without a stack. */
static bool
look(uint64_t now)
{
    uint64_t threshold = atomic_load(&gb_blocked_ns);
    uint32_t used = atomic_load(&gb_step_records_used);
    bool opened = false, held;
    for (uint32_t i = 0; i < used; i++)
        opened |= gb_block_notice_nopy(i, threshold, now);
    if (opened) {
        pthread_mutex_lock(&mutex);
        capture_wanted = true;
        pthread_cond_signal(&wake_clock);
        pthread_mutex_unlock(&mutex);
    }
    bool missing = gb_blocks_review_nopy(now, &held);
    /* Asking needs no GIL. It may be refused, when too many wait, and the next look asks again. At the end of the
     * interpreter there is nobody to ask. */
    if (held && !atomic_exchange(&main_thread_asked, true) && !gb_ask_main_thread_nopy(capture_in_main_thread))
        atomic_store(&main_thread_asked, false);
    return missing;
}

/* ---- the end of the interpreter -------------------------------------------------------------------------------------- */

void
gb_watchdog_python_ended(void)
{
    atomic_fetch_add(&ends_of_python, 1);
    watchdog_running = clock_running = false;
}

/* Back from waiting. A daemon thread that asks for the GIL of an interpreter that is being taken down finds its thread
 * state gone, and takes the process with it; so here it stays for ever, as all do from 3.14 on. */
static void
return_to_python(PyThreadState *state, uint32_t ends)
{
    while (gb_finalizing_nopy() || atomic_load(&ends_of_python) != ends)
        pause();
    PyEval_RestoreThread(state);
}

/* ---- the two loops --------------------------------------------------------------------------------------------------- */

static struct timespec
as_timespec(uint64_t ns)
{
    return (struct timespec){.tv_sec = (time_t)(ns / 1000000000u), .tv_nsec = (long)(ns % 1000000000u)};
}

static uint64_t
end_of(double seconds, uint64_t now)
{
    double span_ns = seconds * 1e9;
    return span_ns >= 9e18 ? UINT64_MAX / 2 : now + (uint64_t)span_ns;
}

static int
seconds_of(PyObject *arg, const char *name, double *seconds)
{
    *seconds = PyFloat_AsDouble(arg);
    if (*seconds == -1.0 && PyErr_Occurred())
        return -1;
    if (!(*seconds >= 0.0)) {
        PyErr_Format(PyExc_ValueError, "%s() needs a number of seconds that is not negative.", name);
        return -1;
    }
    return 0;
}

/* Until then, or until *interrupted or *wanted; without the GIL. */
static bool
wait_until(pthread_cond_t *condition, uint64_t until, const bool *interrupted, const bool *wanted)
{
    struct timespec t = as_timespec(until);
    pthread_mutex_lock(&mutex);
    int status = 0;
    while (!*interrupted && !(wanted != NULL && *wanted) && status != ETIMEDOUT)
        status = pthread_cond_timedwait(condition, &mutex, &t);
    bool was = *interrupted;
    pthread_mutex_unlock(&mutex);
    return was;
}

static void
take_interrupt(bool *interrupted)
{
    pthread_mutex_lock(&mutex);
    *interrupted = false;
    pthread_mutex_unlock(&mutex);
}

static PyObject *
native_run_watchdog(PyObject *self, PyObject *arg)
{
    (void)self;
    double seconds;
    if (seconds_of(arg, "run_watchdog", &seconds) < 0)
        return NULL;
    if (watchdog_running) {
        PyErr_SetString(PyExc_RuntimeError, "run_watchdog() is running in another thread already.");
        return NULL;
    }
    if (gb_fork_install() < 0)
        return NULL;
    if (!conditions_ready)
        init_conditions();
    watchdog_running = true;
    bool counting = atomic_load(&gb_steps_counting);
    if (counting) {
        threshold_in_force = true;
        atomic_store(&gb_blocked_ns, threshold_ns);
    }
    uint64_t now = gb_monotonic_ns();
    uint64_t end = end_of(seconds, now), next = now, patience = end + PATIENCE_NS;
    gb_python_end_install();
    uint32_t ends = atomic_load(&ends_of_python);
    PyThreadState *state = PyEval_SaveThread();
    /* Without steps there is nothing to look at, but time passes all the same. */
    bool stop = false, missing = false;
    /* While a stack is missing this thread does not ask for the GIL: the clock wants it. */
    while (!stop && (now < end || (missing && now < patience)) && atomic_load(&gb_steps_counting) == counting) {
        if (counting)
            missing = look(now);
        next = now > next + LATE_NS ? now + LOOK_EVERY_NS : next + LOOK_EVERY_NS;
        if (!counting)
            next = end;
        stop = wait_until(&wake_watchdog, next < end || missing ? next : end, &watchdog_interrupted, NULL);
        now = gb_monotonic_ns();
    }
    take_interrupt(&watchdog_interrupted);
    return_to_python(state, ends);
    watchdog_running = false;
    Py_RETURN_NONE;
}

/* Gaps are drawn evenly from half to one and a half of the mean, so that nothing that repeats keeps step with them. */
static uint64_t
draw_gap_ns(uint64_t *rng, uint64_t mean)
{
    return mean / 2 + (uint64_t)((double)(gb_random_nopy(rng) >> 11) * 0x1.0p-53 * (double)mean);
}

/* By whoever has the GIL first. */
static void
sample_if_wanted(void)
{
    if (!atomic_exchange(&sample_wanted, false))
        return;
    uint64_t now = gb_monotonic_ns();
    ticks++;
    gb_threads_sample(now - sampled_ns);
    sampled_ns = now;
    held_ns += gb_monotonic_ns() - now;
}

static int
sample_in_main_thread(void *unused)
{
    (void)unused;
    atomic_store(&sample_asked, false);
    sample_if_wanted();
    return 0;
}

/* Who wants the GIL has it after 5 ms, or when it is let go before that: where the thread that computed begins to wait.
 * Of a thread that computes for less at a time, as event loops do, only that place would ever be seen. So the main
 * thread is asked to take the sample itself, and does at the next safe point if it computes. Without the GIL. */
static void
want_sample(void)
{
    gb_threads_look_nopy();
    atomic_store(&sample_wanted, true);
    if (!atomic_exchange(&sample_asked, true) && !gb_ask_main_thread_nopy(sample_in_main_thread))
        atomic_store(&sample_asked, false);
}

static PyObject *
native_run_clock(PyObject *self, PyObject *arg)
{
    (void)self;
    static uint64_t rng;
    double seconds;
    if (seconds_of(arg, "run_clock", &seconds) < 0)
        return NULL;
    if (clock_running) {
        PyErr_SetString(PyExc_RuntimeError, "run_clock() is running in another thread already.");
        return NULL;
    }
    if (gb_fork_install() < 0)
        return NULL;
    if (!conditions_ready)
        init_conditions();
    clock_running = true;
    if (rng == 0)
        rng = gb_thread_seed_nopy();
    uint64_t now = gb_monotonic_ns();
    uint64_t end = end_of(seconds, now);
    /* It goes on where the last call left off, so that no time between two calls is lost; unless that was long ago. */
    uint64_t gap = clock_gap, next = clock_next;
    if (now - clock_left_ns > LATE_NS) {
        gap = 0;
        next = NEVER_NS;
    }
    gb_python_end_install();
    uint32_t ends = atomic_load(&ends_of_python);
    PyThreadState *state = PyEval_SaveThread();
    bool stop = false;
    while (!stop && now < end) {
        uint64_t gap_now = atomic_load(&sample_gap_ns);
        if (gap_now != gap) {
            if (gap == 0)
                sampled_ns = now;
            gap = gap_now;
            next = gap == 0 ? NEVER_NS : now + draw_gap_ns(&rng, gap);
        }
        stop = wait_until(&wake_clock, next < end ? next : end, &clock_interrupted, &capture_wanted);
        now = gb_monotonic_ns();
        pthread_mutex_lock(&mutex);
        bool wanted = capture_wanted;
        capture_wanted = false;
        pthread_mutex_unlock(&mutex);
        bool due = now >= next;
        if (stop || (!wanted && !due))
            continue;
        if (due) {
            want_sample();
            now = gb_monotonic_ns();
        }
        atomic_store(&gb_clock_wants_gil_since, now);
        return_to_python(state, ends);
        uint64_t got = gb_monotonic_ns();
        gil_waits++;
        gil_wait_ns += got - now;
        if (got - now > gil_wait_ns_max)
            gil_wait_ns_max = got - now;
        gb_blocks_capture(got);
        atomic_store(&gb_clock_wants_gil_since, 0);
        held_ns += gb_monotonic_ns() - got;
        sample_if_wanted();
        now = gb_monotonic_ns();
        if (due)
            next = now + draw_gap_ns(&rng, gap);
        state = PyEval_SaveThread();
    }
    take_interrupt(&clock_interrupted);
    return_to_python(state, ends);
    clock_gap = gap;
    clock_next = next;
    clock_left_ns = gb_monotonic_ns();
    clock_running = false;
    Py_RETURN_NONE;
}

static PyObject *
native_clock_interrupt(PyObject *self, PyObject *args)
{
    (void)self;
    (void)args;
    if (!conditions_ready)
        init_conditions();
    pthread_mutex_lock(&mutex);
    watchdog_interrupted = clock_interrupted = true;
    pthread_cond_broadcast(&wake_watchdog);
    pthread_cond_broadcast(&wake_clock);
    pthread_mutex_unlock(&mutex);
    Py_RETURN_NONE;
}

static PyObject *
native_set_clock(PyObject *self, PyObject *args, PyObject *kwargs)
{
    (void)self;
    static char *names[] = {"blocked_ms", "sample_hz", NULL};
    double blocked_ms = 100.0, sample_hz = 0.0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|$dd:set_clock", names, &blocked_ms, &sample_hz))
        return NULL;
    if (!(blocked_ms >= 1.0 && blocked_ms <= 60000.0)) {
        PyErr_SetString(PyExc_ValueError, "blocked_ms must be between 1 and 60000.");
        return NULL;
    }
    if (!(sample_hz >= 0.0 && sample_hz <= 100.0)) {
        PyErr_SetString(PyExc_ValueError, "sample_hz must be between 0 and 100.");
        return NULL;
    }
    threshold_ns = (uint64_t)(blocked_ms * 1e6);
    if (threshold_in_force)
        atomic_store(&gb_blocked_ns, threshold_ns);
    double gap_ns = sample_hz > 0.0 ? 1e9 / sample_hz : 0.0;
    atomic_store(&sample_gap_ns, gap_ns > 1e15 ? (uint64_t)1e15 : (uint64_t)gap_ns);
    if (sample_hz == 0.0 && !clock_running)
        clock_left_ns = 0;
    Py_RETURN_NONE;
}

static PyObject *
native_blocks_take(PyObject *self, PyObject *args)
{
    (void)self;
    (void)args;
    return gb_blocks_take();
}

static PyObject *
native_clock_statistics(PyObject *self, PyObject *args)
{
    (void)self;
    (void)args;
    uint64_t seen, dropped;
    gb_blocks_count(&seen, &dropped);
    uint64_t wait_max = gil_wait_ns_max;
    return Py_BuildValue("{s:K,s:K,s:K,s:K,s:K,s:K,s:I,s:K}", "ticks", (unsigned long long)ticks, "gil_waits",
                         (unsigned long long)gil_waits, "gil_wait_ns", (unsigned long long)gil_wait_ns,
                         "gil_wait_ns_max", (unsigned long long)wait_max, "blocks", (unsigned long long)seen,
                         "blocks_dropped", (unsigned long long)dropped, "blocks_max", GB_BLOCKS_MAX, "sample_ns",
                         (unsigned long long)held_ns);
}

PyMethodDef gb_watchdog_methods[] = {
    {"run_watchdog", native_run_watchdog, METH_O, NULL},
    {"run_clock", native_run_clock, METH_O, NULL},
    {"clock_interrupt", native_clock_interrupt, METH_NOARGS, NULL},
    {"set_clock", (PyCFunction)(void (*)(void))native_set_clock, METH_VARARGS | METH_KEYWORDS, NULL},
    {"blocks_take", native_blocks_take, METH_NOARGS, NULL},
    {"clock_statistics", native_clock_statistics, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

void
gb_watchdog_first_step(void)
{
    if (watchdog_running)
        return;
    if (!conditions_ready)
        init_conditions();
    pthread_mutex_lock(&mutex);
    clock_interrupted = true;
    pthread_cond_broadcast(&wake_clock);
    pthread_mutex_unlock(&mutex);
}

void
gb_watchdog_steps_stopped(void)
{
    if (!conditions_ready)
        init_conditions();
    threshold_in_force = false;
    atomic_store(&gb_blocked_ns, UINT64_MAX);
    gb_blocks_steps_stopped();
    pthread_mutex_lock(&mutex);
    pthread_cond_broadcast(&wake_watchdog);
    pthread_mutex_unlock(&mutex);
}

/* The threads that ran here are not in the child, and the mutex may have been held. */
void
gb_watchdog_after_fork_child(void)
{
    pthread_mutex_init(&mutex, NULL);
    init_conditions();
    gb_blocks_forget(true);
    watchdog_interrupted = clock_interrupted = watchdog_running = clock_running = capture_wanted = false;
    ticks = gil_waits = gil_wait_ns = gil_wait_ns_max = held_ns = 0;
    threshold_in_force = false;
    atomic_store(&gb_blocked_ns, UINT64_MAX);
    atomic_store(&gb_clock_wants_gil_since, 0);
    atomic_store(&main_thread_asked, false);
    atomic_store(&sample_asked, false);
    atomic_store(&sample_wanted, false);
    clock_left_ns = 0;
}
