/* watchdog.c: what holds an event loop, seen while it does; and the clock that samples threads.
 *
 * Two threads of the agent's run here. The watchdog never takes the GIL, so nothing the program does can stop it: every
 * 25 ms it looks at the records of steps.c for a step that has run too long, and opens a block. The clock waits without
 * the GIL and takes it only to act: to take the stack of a block that was opened, and to sample threads. How long it
 * waits for the GIL tells who has it: when the clock cannot have it for 50 ms, native code is holding it. The stack
 * is then taken at the first moment the GIL is let go, which for a call into C is the very instruction that called. Other
 * threads want the GIL at that moment too, and one of them may get it; so the main thread, where most loops run, is also
 * asked to take its own stack there, by a pending call.
 *
 * The step itself closes its block when it ends, in its own thread, so how long a block took is exact even when another
 * step has begun before anybody looked. One mutex guards the blocks; it is held for a few instructions, and nobody
 * who holds it waits for the GIL, runs Python code or drops a reference.
 *
 * A block refers to its coroutine function by number and serial until somebody with the GIL can take a reference, so no
 * pointer to code is followed that was read without it.
 */
#include "steps.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define BLOCKS_MAX 256u
#define LOOK_EVERY_NS UINT64_C(25000000)
#define GIL_HELD_NS UINT64_C(50000000)
/* Behind by more than this, the schedule begins anew: the process was stopped. */
#define LATE_NS UINT64_C(1000000000)
#define PATIENCE_NS UINT64_C(5000000000)

_Atomic uint64_t gb_blocked_ns = UINT64_MAX;

enum { FREE, GOING_ON, ENDED };

typedef struct {
    uint8_t state;
    bool gil_held, late, captured;
    bool end_unseen; /* nobody will tell when */
    uint32_t record, function, label, count;
    uint64_t seq, serial, start_ns, noticed_ns, duration_ns;
    int64_t at_ns;
    unsigned long thread;
    PyCodeObject *code; /* strong, once there */
    gb_frame *frames;   /* malloc'd, count of them, strong */
} block;

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t wake_watchdog, wake_clock;
static bool conditions_ready;

/* Under the mutex. */
static block blocks[BLOCKS_MAX];
static uint32_t blocks_used;
static uint64_t noticed_seq[GB_STEP_THREADS_MAX]; /* the last step of each record that was counted as a block */
static uint64_t blocks_seen, blocks_dropped;
static bool capture_wanted;
static bool watchdog_interrupted, clock_interrupted;

static bool watchdog_running, clock_running; /* with the GIL */
static _Atomic uint64_t wants_gil_since;     /* 0: the clock does not wait for it */
static atomic_bool main_thread_asked;        /* and has not answered yet */
static uint64_t threshold_ns = UINT64_C(100000000);
static bool threshold_in_force;        /* a watchdog has run since steps began */
static _Atomic uint64_t sample_gap_ns; /* mean; 0: threads are not sampled */

/* Of the clock, with the GIL. */
static uint64_t ticks, gil_waits, gil_wait_ns, gil_wait_ns_max, held_ns;

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

/* ---- blocks ---------------------------------------------------------------------------------------------------------- */

static block *
find_locked(uint32_t record, uint64_t seq)
{
    for (uint32_t i = 0; i < BLOCKS_MAX; i++) {
        if (blocks[i].state != FREE && blocks[i].record == record && blocks[i].seq == seq)
            return &blocks[i];
    }
    return NULL;
}

/* NULL when there is no room. Once for each step. */
static block *
open_locked(uint32_t record, uint64_t seq, uint64_t start_ns, uint64_t now)
{
    noticed_seq[record] = seq;
    blocks_seen++;
    block *b = NULL;
    for (uint32_t i = 0; i < BLOCKS_MAX && b == NULL; i++)
        b = blocks[i].state == FREE ? &blocks[i] : NULL;
    if (b == NULL) {
        blocks_dropped++;
        return NULL;
    }
    gb_step_record *r = &gb_step_records[record];
    *b = (block){.state = GOING_ON,
                 .record = record,
                 .seq = seq,
                 .start_ns = start_ns,
                 .noticed_ns = now,
                 .at_ns = gb_realtime_ns() - (int64_t)(now - start_ns),
                 .thread = atomic_load(&r->thread)};
    blocks_used++;
    return b;
}

/* How long the clock has been refused the GIL since the block was noticed. */
static bool
gil_is_held(const block *b, uint64_t now)
{
    uint64_t since = atomic_load(&wants_gil_since);
    if (since == 0)
        return false;
    since = since > b->noticed_ns ? since : b->noticed_ns;
    return now > since && now - since >= GIL_HELD_NS;
}

void
gb_watchdog_step_ended(uint32_t record, uint64_t seq, uint64_t start_ns, uint64_t busy_ns, uint32_t function,
                       uint64_t serial)
{
    PyCodeObject *code = gb_step_function_code(function, serial);
    uint64_t now = gb_monotonic_ns();
    pthread_mutex_lock(&mutex);
    block *b = find_locked(record, seq);
    /* It was over before the watchdog came by; or there was no room for it, and it is counted. */
    if (b == NULL && noticed_seq[record] != seq)
        b = open_locked(record, seq, start_ns, now);
    if (b != NULL) {
        b->state = ENDED;
        b->duration_ns = busy_ns;
        b->gil_held |= !b->captured && gil_is_held(b, now);
        b->function = function;
        b->serial = serial;
        if (b->code == NULL)
            b->code = (PyCodeObject *)Py_XNewRef(code);
    }
    pthread_mutex_unlock(&mutex);
}

static int capture_in_main_thread(void *unused);

/* Looks at every thread's step. Without the GIL. True while there is a block without a stack. */
static bool
look(uint64_t now)
{
    uint64_t threshold = atomic_load(&gb_blocked_ns);
    uint32_t used = atomic_load(&gb_step_records_used);
    bool wanted = false, missing = false, ask = false;
    for (uint32_t i = 0; i < used; i++) {
        gb_step_record *r = &gb_step_records[i];
        uint64_t seq = atomic_load_explicit(&r->seq, memory_order_acquire);
        uint64_t start_ns = atomic_load_explicit(&r->start_ns, memory_order_relaxed);
        if ((seq & 1) == 0 || now < start_ns || now - start_ns < threshold)
            continue;
        pthread_mutex_lock(&mutex);
        uint32_t function = atomic_load_explicit(&r->function, memory_order_relaxed);
        uint64_t serial = atomic_load_explicit(&r->serial, memory_order_relaxed);
        atomic_thread_fence(memory_order_acquire);
        /* A step that has ended closes its block after it has changed seq: so when seq still stands here, it will find
         * the one that is opened now. */
        bool same = atomic_load_explicit(&r->seq, memory_order_relaxed) == seq;
        if (same && noticed_seq[i] != seq) {
            block *b = open_locked(i, seq, start_ns, now);
            if (b != NULL) {
                b->function = function;
                b->serial = serial;
                wanted = true;
            }
        }
        pthread_mutex_unlock(&mutex);
    }
    pthread_mutex_lock(&mutex);
    for (uint32_t i = 0; i < BLOCKS_MAX && blocks_used != 0; i++) {
        block *b = &blocks[i];
        if (b->state != GOING_ON)
            continue;
        if (!b->captured && gil_is_held(b, now))
            b->gil_held = true;
        missing |= !b->captured;
        ask |= !b->captured && b->gil_held;
        /* Never came back: its thread or its stack is gone. One that is just ending corrects this in a moment. */
        if (atomic_load(&gb_step_records[b->record].seq) != b->seq) {
            b->state = ENDED;
            b->duration_ns = now - b->start_ns;
        }
    }
    capture_wanted |= wanted;
    if (wanted)
        pthread_cond_signal(&wake_clock);
    pthread_mutex_unlock(&mutex);
    /* Adding one needs no GIL. It may be refused, when too many wait; the next look asks again. */
    if (ask && !atomic_exchange(&main_thread_asked, true) && Py_AddPendingCall(capture_in_main_thread, NULL) != 0)
        atomic_store(&main_thread_asked, false);
    return missing;
}

/* ---- stacks ---------------------------------------------------------------------------------------------------------- */

/* The state of the thread whose step runs, if it is among the living of the main interpreter. */
static PyThreadState *
living(PyThreadState *wanted, unsigned long thread)
{
    for (PyThreadState *ts = PyInterpreterState_ThreadHead(PyInterpreterState_Main()); ts != NULL;
         ts = PyThreadState_Next(ts)) {
        if (ts == wanted)
            return ts->thread_id == thread ? ts : NULL;
    }
    return NULL;
}

static void
drop_frames(gb_frame *frames, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        Py_DECREF(frames[i].code);
    free(frames);
}

/* With the GIL the step cannot end, nor its frames move: both need it. */
static void
capture(uint32_t record, uint64_t seq, uint64_t now)
{
    gb_step_record *r = &gb_step_records[record];
    if (atomic_load(&r->seq) != seq)
        return;
    PyThreadState *ts = living(atomic_load(&r->state), atomic_load(&r->thread));
    PyCodeObject *code = gb_step_function_code(atomic_load(&r->function), atomic_load(&r->serial));
    if (ts == NULL || code == NULL)
        return;
    gb_frame walked[GB_FRAMES_MAX];
    bool truncated;
    uint32_t count = gb_walk_gil(ts, walked, &truncated);
    gb_frame *frames = malloc((count + !count) * sizeof(*frames));
    if (frames == NULL)
        return;
    memcpy(frames, walked, count * sizeof(*frames));
    for (uint32_t i = 0; i < count; i++)
        Py_INCREF(frames[i].code);
    Py_INCREF(code);
    uint32_t label = gb_label_of_thread(ts);
    pthread_mutex_lock(&mutex);
    block *b = find_locked(record, seq);
    if (b != NULL && b->state == GOING_ON && !b->captured) {
        b->gil_held |= gil_is_held(b, now);
        b->late = b->gil_held;
        b->captured = true;
        b->label = label;
        b->frames = frames;
        b->count = count;
        frames = NULL;
        if (b->code == NULL) {
            b->code = code;
            code = NULL;
        }
    }
    pthread_mutex_unlock(&mutex);
    if (frames != NULL)
        drop_frames(frames, count);
    Py_XDECREF(code);
}

static void
capture_all(uint64_t now)
{
    struct {
        uint32_t record;
        uint64_t seq;
    } wanted[BLOCKS_MAX];
    uint32_t count = 0;
    pthread_mutex_lock(&mutex);
    capture_wanted = false;
    for (uint32_t i = 0; i < BLOCKS_MAX && blocks_used != 0; i++) {
        if (blocks[i].state == GOING_ON && !blocks[i].captured) {
            wanted[count].record = blocks[i].record;
            wanted[count++].seq = blocks[i].seq;
        }
    }
    pthread_mutex_unlock(&mutex);
    for (uint32_t i = 0; i < count; i++)
        capture(wanted[i].record, wanted[i].seq, now);
}

/* At a safe point of the main thread, between two instructions; with the GIL. */
static int
capture_in_main_thread(void *unused)
{
    (void)unused;
    atomic_store(&main_thread_asked, false);
    capture_all(gb_monotonic_ns());
    return 0;
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
    Py_BEGIN_ALLOW_THREADS
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
    Py_END_ALLOW_THREADS
    watchdog_running = false;
    Py_RETURN_NONE;
}

/* Gaps are drawn evenly from half to one and a half of the mean, so that nothing that repeats keeps step with them. */
static uint64_t
draw_gap_ns(uint64_t *rng, uint64_t mean)
{
    return mean / 2 + (uint64_t)((double)(gb_random_nopy(rng) >> 11) * 0x1.0p-53 * (double)mean);
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
    if (!conditions_ready)
        init_conditions();
    clock_running = true;
    if (rng == 0)
        rng = gb_thread_seed_nopy();
    uint64_t now = gb_monotonic_ns();
    uint64_t end = end_of(seconds, now);
    uint64_t sampled_ns = now; /* the time up to here is in samples */
    uint64_t gap = 0, next = UINT64_MAX / 2;
    PyThreadState *state = PyEval_SaveThread();
    bool stop = false;
    while (!stop && now < end) {
        uint64_t gap_now = atomic_load(&sample_gap_ns);
        if (gap_now != gap) {
            gap = gap_now;
            sampled_ns = now;
            next = gap == 0 ? UINT64_MAX / 2 : now + draw_gap_ns(&rng, gap);
        }
        stop = wait_until(&wake_clock, next < end ? next : end, &clock_interrupted, &capture_wanted);
        now = gb_monotonic_ns();
        pthread_mutex_lock(&mutex);
        bool wanted = capture_wanted;
        pthread_mutex_unlock(&mutex);
        bool due = now >= next;
        if (stop || (!wanted && !due))
            continue;
        atomic_store(&wants_gil_since, now);
        PyEval_RestoreThread(state);
        uint64_t got = gb_monotonic_ns();
        gil_waits++;
        gil_wait_ns += got - now;
        if (got - now > gil_wait_ns_max)
            gil_wait_ns_max = got - now;
        capture_all(got);
        atomic_store(&wants_gil_since, 0);
        if (due) {
            ticks++;
            gb_threads_sample(got - sampled_ns);
            sampled_ns = got;
            next = got + draw_gap_ns(&rng, gap);
        }
        now = gb_monotonic_ns();
        held_ns += now - got;
        state = PyEval_SaveThread();
    }
    take_interrupt(&clock_interrupted);
    PyEval_RestoreThread(state);
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
    Py_RETURN_NONE;
}

/* ---- reading out ------------------------------------------------------------------------------------------------------ */

static PyObject *
row_of(const block *b)
{
    PyObject *stack = PyList_New(0);
    for (uint32_t i = 0; stack != NULL && i < b->count; i++) {
        PyObject *frame = Py_BuildValue("(Oi)", b->frames[i].code, (int)b->frames[i].offset);
        if (frame == NULL || PyList_Append(stack, frame) < 0)
            Py_CLEAR(stack);
        Py_XDECREF(frame);
    }
    if (stack == NULL)
        return NULL;
    return Py_BuildValue("(LkOKNOOOI)", (long long)b->at_ns, b->thread, b->code, (unsigned long long)b->duration_ns,
                         stack, b->gil_held ? Py_True : Py_False, b->late ? Py_True : Py_False,
                         b->state == ENDED && !b->end_unseen ? Py_True : Py_False, (unsigned int)b->label);
}

/* A copy with references of its own. False: no memory for it. */
static bool
copy_locked(const block *b, block *copy)
{
    *copy = *b;
    if (b->count != 0) {
        copy->frames = malloc(b->count * sizeof(*copy->frames));
        if (copy->frames == NULL)
            return false;
        memcpy(copy->frames, b->frames, b->count * sizeof(*copy->frames));
        for (uint32_t i = 0; i < b->count; i++)
            Py_INCREF(copy->frames[i].code);
    } else {
        copy->frames = NULL;
    }
    Py_INCREF(copy->code);
    return true;
}

/* What has ended leaves the table; what goes on stays. Under the mutex nothing is dropped and no object made. */
static uint32_t
take_locked(block *taken, uint64_t now)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < BLOCKS_MAX; i++) {
        block *b = &blocks[i];
        if (b->state == FREE)
            continue;
        if (b->code == NULL)
            b->code = (PyCodeObject *)Py_XNewRef(gb_step_function_code(b->function, b->serial));
        if (b->code == NULL && b->state == ENDED) {
            blocks_dropped++; /* of a function that found no room in its table, or has left it */
            b->state = FREE;
            blocks_used--;
        } else if (b->code != NULL && b->state == ENDED) {
            taken[count++] = *b;
            b->state = FREE;
            blocks_used--;
        } else if (b->code != NULL) {
            b->duration_ns = now > b->start_ns ? now - b->start_ns : 0;
            count += copy_locked(b, &taken[count]);
        }
    }
    return count;
}

static PyObject *
native_blocks_take(PyObject *self, PyObject *args)
{
    (void)self;
    (void)args;
    PyObject *rows = PyList_New(0);
    block *taken = rows == NULL ? NULL : malloc(BLOCKS_MAX * sizeof(*taken));
    if (taken == NULL) {
        Py_XDECREF(rows);
        return PyErr_NoMemory();
    }
    uint64_t now = gb_monotonic_ns();
    pthread_mutex_lock(&mutex);
    uint32_t count = take_locked(taken, now);
    pthread_mutex_unlock(&mutex);
    for (uint32_t i = 0; i < count; i++) {
        PyObject *row = rows == NULL ? NULL : row_of(&taken[i]);
        if (rows != NULL && (row == NULL || PyList_Append(rows, row) < 0))
            Py_CLEAR(rows);
        Py_XDECREF(row);
        drop_frames(taken[i].frames, taken[i].count);
        Py_DECREF(taken[i].code);
    }
    free(taken);
    return rows;
}

static PyObject *
native_clock_statistics(PyObject *self, PyObject *args)
{
    (void)self;
    (void)args;
    pthread_mutex_lock(&mutex);
    uint64_t seen = blocks_seen, dropped = blocks_dropped;
    pthread_mutex_unlock(&mutex);
    uint64_t wait_max = gil_wait_ns_max;
    gil_wait_ns_max = 0;
    return Py_BuildValue("{s:K,s:K,s:K,s:K,s:K,s:K,s:I,s:K}", "ticks", (unsigned long long)ticks, "gil_waits",
                         (unsigned long long)gil_waits, "gil_wait_ns", (unsigned long long)gil_wait_ns,
                         "gil_wait_ns_max", (unsigned long long)wait_max, "blocks", (unsigned long long)seen,
                         "blocks_dropped", (unsigned long long)dropped, "blocks_max", BLOCKS_MAX, "sample_ns",
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

/* Steps that run now will not say that they end; whoever reads is told once more that they go on, and no more. */
void
gb_watchdog_steps_stopped(void)
{
    if (!conditions_ready)
        init_conditions();
    threshold_in_force = false;
    atomic_store(&gb_blocked_ns, UINT64_MAX);
    pthread_mutex_lock(&mutex);
    uint64_t now = gb_monotonic_ns();
    for (uint32_t i = 0; i < BLOCKS_MAX; i++) {
        if (blocks[i].state == GOING_ON) {
            blocks[i].state = ENDED;
            blocks[i].end_unseen = true;
            blocks[i].duration_ns = now - blocks[i].start_ns;
        }
    }
    pthread_cond_broadcast(&wake_watchdog);
    pthread_mutex_unlock(&mutex);
}

void
gb_watchdog_forget(void)
{
    pthread_mutex_lock(&mutex);
    memset(blocks, 0, sizeof blocks);
    memset(noticed_seq, 0, sizeof noticed_seq);
    blocks_used = 0;
    capture_wanted = false;
    pthread_mutex_unlock(&mutex);
}

/* The threads that ran here are not in the child, and the mutex may have been held. */
void
gb_watchdog_after_fork_child(void)
{
    pthread_mutex_init(&mutex, NULL);
    init_conditions();
    gb_watchdog_forget();
    watchdog_interrupted = clock_interrupted = watchdog_running = clock_running = false;
    blocks_seen = blocks_dropped = 0;
    ticks = gil_waits = gil_wait_ns = gil_wait_ns_max = held_ns = 0;
    threshold_in_force = false;
    atomic_store(&gb_blocked_ns, UINT64_MAX);
    atomic_store(&wants_gil_since, 0);
    atomic_store(&main_thread_asked, false);
}
