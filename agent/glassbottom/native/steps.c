/* steps.c: every step of every coroutine that an event loop runs, for two readings of a clock.
 *
 * A task takes a step through the slot `am_send` of the coroutine type, whatever the loop, and an exception enters
 * through the method `throw`. Both are replaced by functions around the originals. Only the outermost call on a thread
 * is a step: on 3.11 nested awaits pass here too, and a loop may run inside a step of another. The exception to that is
 * from 3.12 on a coroutine that begins inside a step (an eager task): its time belongs to the step around it, its life
 * is its own.
 *
 * What runs is published in a record per thread that the watchdog reads without the GIL: seq is odd while a step runs,
 * and whoever reads the same odd number before and after has read one step. Records are never freed.
 *
 * Which step is outermost is an address on the C stack, not a count: a step that never comes back (its stack was thrown
 * away, as greenlets can be) is noticed by the next one, since it is not below it or its coroutine does not run.
 *
 * The record holds a reference to the coroutine while it runs. Nothing here is allocated in a step but on the first of
 * a function or thread, and once a second, when the running loop is asked for. Exceptions are only looked at.
 */
#define Py_BUILD_CORE 1
#include "steps.h"

#include <opcode.h>
#include <pthread.h>
#include <string.h>

#ifndef GB_UNSUPPORTED
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-parameter"
#pragma GCC diagnostic ignored "-Wsign-compare"
#include <internal/pycore_frame.h>
#if PY_VERSION_HEX >= 0x030E0000
#include <internal/pycore_interpframe.h>
#endif
#pragma GCC diagnostic pop
#endif

#define LOOK_NS UINT64_C(1000000000)
#define RETRY_STEPS 1024u

gb_step_record gb_step_records[GB_STEP_THREADS_MAX];
_Atomic uint32_t gb_step_records_used;
atomic_bool gb_steps_counting;

uint64_t gb_steps_counted, gb_step_threads_dropped;

#ifndef GB_UNSUPPORTED

typedef struct {
    gb_step_record *record;
    uint32_t refused; /* steps left before a record is asked for again */
} step_thread;
static __thread step_thread this_thread;

/* One call of the wrapper, on its stack. */
typedef struct {
    PyObject *coroutine;
    gb_step_coroutine *row; /* a guess: the table may have been rearranged */
    gb_step_record *record;
    uint64_t start_ns, start_ticks, seq, generation;
    uint32_t function, serial;
    bool nested;
} step;

gb_step_hot_state gb_step_hot;
gb_step_throw_function gb_step_original_throw;

/* ---- coroutines, from inside ------------------------------------------------------------------------------------- */

static inline int
frame_state(PyObject *coroutine)
{
    return ((PyGenObject *)coroutine)->gi_frame_state;
}

/* Borrowed from the coroutine, which has it until it is freed, also when it has ended. */
static inline PyCodeObject *
code_of(PyObject *coroutine)
{
    PyGenObject *g = (PyGenObject *)coroutine;
#if PY_VERSION_HEX >= 0x030E0000
    return (PyCodeObject *)(g->gi_iframe.f_executable.bits & ~(uintptr_t)3);
#elif PY_VERSION_HEX >= 0x030D0000
    return (PyCodeObject *)((_PyInterpreterFrame *)g->gi_iframe)->f_executable;
#elif PY_VERSION_HEX >= 0x030C0000
    return ((_PyInterpreterFrame *)g->gi_iframe)->f_code;
#else
    return g->gi_code;
#endif
}

bool
gb_step_has_begun(PyObject *coroutine)
{
    return frame_state(coroutine) != FRAME_CREATED;
}

/* ---- threads ----------------------------------------------------------------------------------------------------- */

static pthread_key_t thread_key;

/* When a thread ends; without the GIL. A step it was in never comes back. */
static void
give_back_record(void *p)
{
    gb_step_record *r = p;
    this_thread.record = NULL;
    r->outermost = NULL;
    uint64_t seq = atomic_load(&r->seq);
    atomic_store(&r->seq, seq + (seq & 1));
    atomic_store(&r->used, 0);
}

int
gb_step_threads_prepare(void)
{
    static bool ready;
    if (!ready && pthread_key_create(&thread_key, give_back_record) != 0) {
        PyErr_SetString(PyExc_RuntimeError, "This process has no thread-specific key left: steps cannot be seen.");
        return -1;
    }
    ready = true;
    return 0;
}

void
gb_step_threads_after_fork_child(void)
{
    for (uint32_t i = 0; i < GB_STEP_THREADS_MAX; i++) {
        gb_step_record *r = &gb_step_records[i];
        r->look_ns = 0;
        if (r == this_thread.record)
            continue;
        r->coroutine = NULL;
        uint64_t seq = atomic_load(&r->seq);
        atomic_store(&r->seq, seq + (seq & 1));
        atomic_store(&r->used, 0);
    }
}

static gb_step_record *
take_record(step_thread *thread)
{
    if (thread->record != NULL)
        return thread->record;
    if (thread->refused != 0) {
        thread->refused--;
        gb_step_threads_dropped++;
        return NULL;
    }
    for (uint32_t i = 0; i < GB_STEP_THREADS_MAX; i++) {
        gb_step_record *r = &gb_step_records[i];
        uint32_t unused = 0;
        if (!atomic_compare_exchange_strong(&r->used, &unused, 1))
            continue;
        if (pthread_setspecific(thread_key, r) != 0) {
            atomic_store(&r->used, 0);
            break;
        }
        r->coroutine = NULL; /* of a thread that ended inside a step: that one is leaked */
        r->outermost = NULL;
        r->look_ns = 0;
        atomic_store(&r->thread, PyThread_get_thread_ident());
        if (i >= atomic_load(&gb_step_records_used))
            atomic_store(&gb_step_records_used, i + 1);
        gb_watchdog_first_step();
        return thread->record = r;
    }
    thread->refused = RETRY_STEPS;
    gb_step_threads_dropped++;
    return NULL;
}

/* ---- a step ------------------------------------------------------------------------------------------------------ */

/* Whether Python code awaits it, so that it cannot be what a task runs. Only 3.11 comes here for that, and only below a
 * coroutine that is not Python's own, such as Cython's. */
static inline bool
is_awaited(const PyThreadState *ts)
{
#if PY_VERSION_HEX < 0x030C0000
    const _PyInterpreterFrame *frame = ts->cframe->current_frame;
    return frame != NULL && _Py_OPCODE(*frame->prev_instr) == SEND;
#else
    (void)ts;
    return false;
#endif
}

/* The row and the function, made if need be. created: this is the coroutine's first step. False: pass through. */
static inline bool
find_row(step *s, const PyThreadState *ts, bool created)
{
    gb_step_coroutine *c = gb_step_coroutine_find(s->coroutine);
    if (GB_UNLIKELY(c != NULL && (created || (c->code != NULL && c->code != code_of(s->coroutine))))) {
        /* Another one lived at this address, and ended where no step is seen: closed, or dropped. */
        gb_step_coroutine_end(c, GB_ENDED_THROWN, c->end_ns > c->first_ns ? c->end_ns : c->first_ns);
        c = NULL;
    }
    if (GB_LIKELY(c != NULL)) {
        s->function = c->function;
        s->serial = c->serial;
    } else if (is_awaited(ts)) {
        return false;
    } else {
        s->function = gb_step_function_of(code_of(s->coroutine));
        gb_step_functions_dropped += s->function == 0;
        c = gb_step_coroutine_add(s->coroutine, s->function, s->start_ns, !created);
        gb_step_coroutines_dropped += c == NULL;
        const gb_step_function *f = gb_step_functions[s->function];
        s->serial = f == NULL ? 0 : f->serial;
    }
    s->row = c;
    if (GB_LIKELY(c != NULL))
        c->start_ns = s->start_ns;
    return true;
}

static inline gb_step_coroutine *
row_of(const step *s)
{
    gb_step_coroutine *c = s->row;
    return c != NULL && GB_LIKELY(c->coroutine == s->coroutine) ? c : gb_step_coroutine_find(s->coroutine);
}

/* Inside a step. False: pass through. */
static bool
begin_nested(step *s, const PyThreadState *ts, int state, bool by_throw)
{
#if PY_VERSION_HEX >= 0x030C0000
    s->nested = true;
    s->generation = gb_step_hot.generation;
    s->row = NULL;
    bool created = state == FRAME_CREATED && !by_throw;
    if (!created)
        return gb_step_coroutine_find(s->coroutine) != NULL; /* it may end in here */
    s->start_ns = gb_step_clock_now(&s->start_ticks);
    return find_row(s, ts, true);
#else
    (void)s;
    (void)ts;
    (void)state;
    (void)by_throw;
    return false;
#endif
}

static void
forget_lost_step(gb_step_record *r)
{
    PyObject *type, *value, *traceback, *lost = r->coroutine;
    uint64_t seq = atomic_load(&r->seq);
    r->coroutine = NULL;
    atomic_store(&r->seq, seq + (seq & 1));
    PyErr_Fetch(&type, &value, &traceback);
    Py_XDECREF(lost);
    PyErr_Restore(type, value, traceback);
}

static __attribute__((noinline)) gb_step_record *
record_of(const PyThreadState *ts)
{
    gb_step_record *r = take_record(&this_thread);
    if (r != NULL) {
        gb_step_hot.last_thread = ts->id;
        gb_step_hot.last_record = r;
    }
    return r;
}

/* False: pass through. */
static inline bool
begin(step *s, PyObject *coroutine, bool by_throw)
{
    if (GB_UNLIKELY(!atomic_load_explicit(&gb_steps_counting, memory_order_relaxed)))
        return false;
    PyThreadState *ts = PyThreadState_Get();
    if (GB_UNLIKELY(ts->interp != gb_step_hot.main_interpreter))
        return false;
    int state = frame_state(coroutine);
    if (GB_UNLIKELY(state >= FRAME_EXECUTING))
        return false; /* an error of the caller's; nothing will run */
    s->coroutine = coroutine;
    gb_step_record *r = GB_LIKELY(gb_step_hot.last_thread == ts->id) ? gb_step_hot.last_record : record_of(ts);
    if (GB_UNLIKELY(r == NULL))
        return false;
    if (r->outermost != NULL) {
        /* Stacks grow down. */
        if (GB_LIKELY((uintptr_t)s < (uintptr_t)r->outermost && r->coroutine != NULL
                      && frame_state(r->coroutine) == FRAME_EXECUTING))
            return begin_nested(s, ts, state, by_throw);
        r->outermost = NULL;
    }
    if (GB_UNLIKELY(by_throw && state == FRAME_CREATED))
        return false; /* ends where it would have begun, and has never run */
    if (GB_UNLIKELY(r->coroutine != NULL))
        forget_lost_step(r);
    s->start_ns = gb_step_clock_now(&s->start_ticks);
    if (GB_UNLIKELY(s->start_ns >= r->look_ns)) {
        r->look_ns = s->start_ns + LOOK_NS;
        gb_step_loops_look();
        if (!atomic_load_explicit(&gb_steps_counting, memory_order_relaxed))
            return false;
        s->start_ns = gb_step_clock_now(&s->start_ticks);
    }
    s->nested = false;
    s->generation = gb_step_hot.generation;
    s->record = r;
    if (!find_row(s, ts, state == FRAME_CREATED))
        return false;
    s->seq = atomic_load_explicit(&r->seq, memory_order_relaxed) + 1;
    r->outermost = s;
    r->coroutine = Py_NewRef(coroutine);
    /* Whoever reads one of these sees that the step before has ended. */
    atomic_thread_fence(memory_order_release);
    atomic_store_explicit(&r->start_ns, s->start_ns, memory_order_relaxed);
    atomic_store_explicit(&r->serial, s->serial, memory_order_relaxed);
    atomic_store_explicit(&r->function, s->function, memory_order_relaxed);
    atomic_store_explicit(&r->state, ts, memory_order_relaxed);
    atomic_store_explicit(&r->seq, s->seq, memory_order_release);
    return true;
}

enum { YIELDED, YIELDED_NOTHING, RETURNED, FAILED };

/* Looks at the exception that is on its way, and no more. */
static unsigned
status_of(unsigned outcome)
{
    if (outcome == RETURNED)
        return GB_ENDED_OK;
    PyObject *type = PyErr_Occurred();
    if (type == NULL || !PyType_Check(type))
        return GB_ENDED_ERROR;
    if (PyType_IsSubtype((PyTypeObject *)type, (PyTypeObject *)PyExc_GeneratorExit))
        return GB_ENDED_CANCELLED;
    if (gb_cancelled_error != NULL && PyType_Check(gb_cancelled_error)
        && PyType_IsSubtype((PyTypeObject *)type, (PyTypeObject *)gb_cancelled_error))
        return GB_ENDED_CANCELLED;
    return GB_ENDED_ERROR;
}

static void
finish_nested(step *s, unsigned outcome)
{
    if (s->generation != gb_step_hot.generation)
        return;
    gb_step_coroutine *c = gb_step_coroutine_find(s->coroutine);
    if (c == NULL)
        return;
    uint64_t ticks;
    uint64_t now = gb_step_clock_now(&ticks);
    c->end_ns = now > c->start_ns ? now : c->start_ns;
    if (outcome >= RETURNED)
        gb_step_coroutine_end(c, status_of(outcome), now);
}

static inline void
finish(step *s, unsigned outcome)
{
    if (GB_UNLIKELY(s->nested)) {
        finish_nested(s, outcome);
        return;
    }
    uint64_t busy = gb_step_clock_since(s->start_ns, s->start_ticks);
    uint64_t end_ns = s->start_ns + busy;
    gb_step_record *r = s->record;
    bool ours = atomic_load_explicit(&r->seq, memory_order_relaxed) == s->seq;
    PyObject *held = NULL;
    if (GB_LIKELY(ours)) {
        held = r->coroutine;
        r->coroutine = NULL;
        atomic_store_explicit(&r->seq, s->seq + 1, memory_order_release);
        r->outermost = NULL;
    }
    if (GB_LIKELY(s->generation == gb_step_hot.generation)) {
        gb_step_coroutine *c = row_of(s);
        if (GB_LIKELY(c != NULL)) {
            c->end_ns = end_ns;
            c->busy_ns += busy;
            c->steps++;
            c->bare_yields += outcome == YIELDED_NOTHING;
        }
        /* A step that another thread of control ran over has no time of its own. */
        if (GB_LIKELY(ours)) {
            gb_steps_ended[gb_steps_ended_used++] =
                (gb_step_ended){busy, s->function * 2 + (outcome == YIELDED_NOTHING), s->serial};
            if (GB_UNLIKELY(gb_steps_ended_used == GB_STEPS_ENDED_MAX))
                gb_steps_settle(end_ns);
        }
        if (outcome >= RETURNED && c != NULL)
            gb_step_coroutine_end(c, status_of(outcome), end_ns);
        if (GB_UNLIKELY(ours && busy >= atomic_load_explicit(&gb_blocked_ns, memory_order_relaxed)))
            gb_block_end((uint32_t)(r - gb_step_records), s->seq, s->start_ns, busy, s->function, s->serial);
    }
    Py_XDECREF(held); /* never the last: whoever sends has its own */
}

PySendResult
gb_step_send(PyObject *coroutine, PyObject *arg, PyObject **result)
{
    step s;
    if (!begin(&s, coroutine, false))
        return gb_step_hot.original_send(coroutine, arg, result);
    PySendResult outcome = gb_step_hot.original_send(coroutine, arg, result);
    finish(&s, outcome == PYGEN_NEXT     ? (*result == Py_None ? YIELDED_NOTHING : YIELDED)
               : outcome == PYGEN_RETURN ? RETURNED
                                         : FAILED);
    return outcome;
}

PyObject *
gb_step_throw(PyObject *coroutine, PyObject *const *args, Py_ssize_t n)
{
    step s;
    if (!begin(&s, coroutine, true))
        return gb_step_original_throw(coroutine, args, n);
    PyObject *result = gb_step_original_throw(coroutine, args, n);
    if (result != NULL)
        finish(&s, result == Py_None ? YIELDED_NOTHING : YIELDED);
    else if (frame_state(coroutine) < FRAME_EXECUTING)
        finish(&s, YIELDED); /* refused its arguments: the coroutine did not move */
    else
        finish(&s, PyErr_Occurred() == PyExc_StopIteration ? RETURNED : FAILED);
    return result;
}

#else

bool
gb_step_has_begun(PyObject *coroutine)
{
    (void)coroutine;
    return false;
}

#endif
