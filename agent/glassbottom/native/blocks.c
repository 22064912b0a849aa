/* blocks.c: the steps that held an event loop for too long, until they are told.
 *
 * The watchdog opens a block without the GIL; the clock, with it, adds the stack; the step itself closes the block when
 * it ends, in its own thread, so how long it took is exact even when another step has begun before anybody looked.
 *
 * One mutex guards the blocks. It is held for a few instructions, and nobody who holds it waits for the GIL, runs Python
 * code or drops a reference. A block refers to its coroutine function by number and serial until somebody with the GIL can
 * take a reference, so no pointer to code is followed that was read without it.
 */
#include "steps.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define GIL_HELD_NS UINT64_C(50000000)

_Atomic uint64_t gb_blocked_ns = UINT64_MAX;
_Atomic uint64_t gb_clock_wants_gil_since;

enum { FREE, GOING_ON, ENDED };

typedef struct {
    uint8_t state;
    bool gil_held, late, captured;
    bool end_unseen; /* nobody will tell when */
    uint32_t record, function, label, count;
    uint64_t seq, start_ns, noticed_ns, duration_ns;
    uint32_t serial;
    int64_t at_ns;
    unsigned long thread;
    PyCodeObject *code; /* strong, once there */
    gb_frame *frames;   /* malloc'd, count of them, strong */
} block;

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static block blocks[GB_BLOCKS_MAX];
static uint32_t blocks_used;
static uint64_t noticed_seq[GB_STEP_THREADS_MAX]; /* the last step of each record that was counted as a block */
static uint64_t blocks_seen, blocks_dropped;

static block *
find_locked(uint32_t record, uint64_t seq)
{
    for (uint32_t i = 0; i < GB_BLOCKS_MAX; i++) {
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
    for (uint32_t i = 0; i < GB_BLOCKS_MAX && b == NULL; i++)
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
    uint64_t since = atomic_load(&gb_clock_wants_gil_since);
    if (since == 0)
        return false;
    since = since > b->noticed_ns ? since : b->noticed_ns;
    return now > since && now - since >= GIL_HELD_NS;
}

void
gb_block_end(uint32_t record, uint64_t seq, uint64_t start_ns, uint64_t busy_ns, uint32_t function, uint32_t serial)
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

bool
gb_block_notice_nopy(uint32_t record, uint64_t threshold_ns, uint64_t now)
{
    gb_step_record *r = &gb_step_records[record];
    uint64_t seq = atomic_load_explicit(&r->seq, memory_order_acquire);
    uint64_t start_ns = atomic_load_explicit(&r->start_ns, memory_order_relaxed);
    if ((seq & 1) == 0 || now < start_ns || now - start_ns < threshold_ns)
        return false;
    pthread_mutex_lock(&mutex);
    uint32_t function = atomic_load_explicit(&r->function, memory_order_relaxed);
    uint32_t serial = atomic_load_explicit(&r->serial, memory_order_relaxed);
    atomic_thread_fence(memory_order_acquire);
    /* A step changes seq before it closes its block: so if seq still stands here, it will find what is opened now. */
    bool same = atomic_load_explicit(&r->seq, memory_order_relaxed) == seq;
    block *b = same && noticed_seq[record] != seq ? open_locked(record, seq, start_ns, now) : NULL;
    if (b != NULL) {
        b->function = function;
        b->serial = serial;
    }
    pthread_mutex_unlock(&mutex);
    return b != NULL;
}

bool
gb_blocks_review_nopy(uint64_t now, bool *held)
{
    bool missing = false;
    *held = false;
    pthread_mutex_lock(&mutex);
    for (uint32_t i = 0; i < GB_BLOCKS_MAX && blocks_used != 0; i++) {
        block *b = &blocks[i];
        if (b->state != GOING_ON)
            continue;
        if (atomic_load(&gb_step_records[b->record].seq) != b->seq) {
            /* Its thread or its stack is gone; or it is just ending, and will correct this in a moment. */
            b->state = ENDED;
            b->duration_ns = now - b->start_ns;
        } else if (!b->captured) {
            b->gil_held |= gil_is_held(b, now);
            *held |= b->gil_held;
            missing = true;
        }
    }
    pthread_mutex_unlock(&mutex);
    return missing;
}

/* ---- stacks ------------------------------------------------------------------------------------------------------- */

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

void
gb_blocks_capture(uint64_t now)
{
    struct {
        uint32_t record;
        uint64_t seq;
    } wanted[GB_BLOCKS_MAX];
    uint32_t count = 0;
    pthread_mutex_lock(&mutex);
    for (uint32_t i = 0; i < GB_BLOCKS_MAX && blocks_used != 0; i++) {
        if (blocks[i].state == GOING_ON && !blocks[i].captured) {
            wanted[count].record = blocks[i].record;
            wanted[count++].seq = blocks[i].seq;
        }
    }
    pthread_mutex_unlock(&mutex);
    for (uint32_t i = 0; i < count; i++)
        capture(wanted[i].record, wanted[i].seq, now);
}

/* ---- reading out --------------------------------------------------------------------------------------------------- */

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
    for (uint32_t i = 0; i < GB_BLOCKS_MAX; i++) {
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

PyObject *
gb_blocks_take(void)
{
    PyObject *rows = PyList_New(0);
    block *taken = rows == NULL ? NULL : malloc(GB_BLOCKS_MAX * sizeof(*taken));
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

void
gb_blocks_count(uint64_t *seen, uint64_t *dropped)
{
    pthread_mutex_lock(&mutex);
    *seen = blocks_seen;
    *dropped = blocks_dropped;
    pthread_mutex_unlock(&mutex);
}

/* Steps that run now will not say that they end: they are told once more as going on, and no more. */
void
gb_blocks_steps_stopped(void)
{
    uint64_t now = gb_monotonic_ns();
    pthread_mutex_lock(&mutex);
    for (uint32_t i = 0; i < GB_BLOCKS_MAX; i++) {
        if (blocks[i].state == GOING_ON) {
            blocks[i].state = ENDED;
            blocks[i].end_unseen = true;
            blocks[i].duration_ns = now - blocks[i].start_ns;
        }
    }
    pthread_mutex_unlock(&mutex);
}

void
gb_blocks_forget(bool child)
{
    if (child)
        pthread_mutex_init(&mutex, NULL); /* it may have been held */
    pthread_mutex_lock(&mutex);
    memset(blocks, 0, sizeof blocks);
    memset(noticed_seq, 0, sizeof noticed_seq);
    blocks_used = 0;
    blocks_seen = blocks_dropped = 0;
    pthread_mutex_unlock(&mutex);
}
