/* steps.h: what steps.c, the other step_*.c, blocks.c and watchdog.c share. Everything in it needs the GIL of the main
 * interpreter unless it says otherwise.
 */
#ifndef GB_STEPS_H
#define GB_STEPS_H

#include "core.h"

/* ---- step_clock.c: CLOCK_MONOTONIC, read twice in every step ----------------------------------------------------- */

typedef struct {
    bool ticking;        /* the processor's counter is used */
    uint64_t base_ticks; /* this reading of it ... */
    uint64_t base_ns;    /* ... was this on CLOCK_MONOTONIC */
    uint64_t rate;       /* nanoseconds a tick, times 2^32 */
    uint64_t span_ticks; /* how long after the base the rate is trusted */
} gb_step_clock_state;
extern gb_step_clock_state gb_step_clock;

void gb_step_clock_start(void);
/* The slow way: reads CLOCK_MONOTONIC, and compares the counter with it. *ticks 0: the counter is not used. */
uint64_t gb_step_clock_follow(uint64_t *ticks);

#if defined(__x86_64__)
#include <x86intrin.h>
static inline uint64_t
gb_ticks_to_ns(uint64_t ticks)
{
    return (uint64_t)((unsigned __int128)ticks * gb_step_clock.rate >> 32);
}
#endif

/* Now, on CLOCK_MONOTONIC; *ticks is for gb_step_clock_since(). */
static inline uint64_t
gb_step_clock_now(uint64_t *ticks)
{
#if defined(__x86_64__)
    if (GB_LIKELY(gb_step_clock.ticking)) {
        *ticks = __rdtsc();
        uint64_t since = *ticks - gb_step_clock.base_ticks;
        if (GB_LIKELY(since < gb_step_clock.span_ticks))
            return gb_step_clock.base_ns + gb_ticks_to_ns(since);
    }
#endif
    return gb_step_clock_follow(ticks);
}

/* Beyond this a duration is measured by CLOCK_MONOTONIC alone: there the price does not matter, and a counter that was
 * moved under a running step (migration of a virtual machine) does no harm. */
#define GB_STEP_TICKS_NS_MAX UINT64_C(1000000)

static inline uint64_t
gb_step_clock_since(uint64_t start_ns, uint64_t start_ticks)
{
#if defined(__x86_64__)
    if (GB_LIKELY(start_ticks != 0)) {
        uint64_t ticks = __rdtsc() - start_ticks;
        uint64_t ns = gb_ticks_to_ns((int64_t)ticks < 0 ? 0 : ticks);
        if (GB_LIKELY(ns < GB_STEP_TICKS_NS_MAX))
            return ns;
    }
#else
    (void)start_ticks;
#endif
    uint64_t now = gb_monotonic_ns();
    return now > start_ns ? now - start_ns : 0;
}

/* ---- step_tables.c: coroutine functions, and coroutines ---------------------------------------------------------- */

#define GB_STEP_FUNCTIONS_MAX 1023u /* numbers 1 to this; 0: none */
#define GB_STEP_COROUTINE_SLOTS 16384u
#define GB_STEP_COROUTINES_MAX 12288u /* three quarters: linear probing stays short */

enum { GB_ENDED_OK, GB_ENDED_ERROR, GB_ENDED_CANCELLED, GB_ENDED_THROWN, GB_ENDED_KINDS };

typedef struct {
    uint64_t count, lifetime_ns, busy_ns, min_ns, max_ns;
    gb_histogram histogram;
} gb_step_ending;

typedef struct {
    PyCodeObject *code; /* strong */
    uint32_t serial;    /* never used twice: whether a number still means the same function */
    uint32_t coroutines;
    uint64_t used_ns; /* of its last step */
    uint64_t steps, bare_yields, busy_ns, step_ns_max;
    gb_step_ending *ended[GB_ENDED_KINDS];
    gb_histogram histogram;
} gb_step_function;

typedef struct {
    const void *coroutine; /* NULL: free. Never dereferenced: it may be gone */
    uint64_t first_ns, start_ns, end_ns, busy_ns;
    uint32_t steps, bare_yields;
    uint16_t function;
    bool late;        /* it was not met at its first step: how long it has lived is not known */
    bool kept;        /* scratch of reconciling */
    uint32_t serial;  /* of its function */
    const void *code; /* likewise; only compared */
} gb_step_coroutine;

/* Steps that have ended and are not yet in their function's row: one line of memory for four steps, where the row, its
 * histogram and the tables that find a bucket are six for each. */
typedef struct {
    uint64_t busy_ns;
    uint32_t function; /* twice the number, and 1 more for a bare yield */
    uint32_t serial;
} gb_step_ended;
#define GB_STEPS_ENDED_MAX 64u
extern gb_step_ended gb_steps_ended[GB_STEPS_ENDED_MAX];
extern uint32_t gb_steps_ended_used;
/* Puts them there. used_ns: about when they ended. */
void gb_steps_settle(uint64_t used_ns);

extern gb_step_function *gb_step_functions[GB_STEP_FUNCTIONS_MAX + 1];
extern uint32_t gb_step_functions_used, gb_step_coroutines_used;
extern uint64_t gb_step_functions_dropped, gb_step_coroutines_dropped, gb_step_thrown;

int gb_step_tables_map(void); /* -1 with an exception */
/* Its number, made on first use; 0 when there is no room. Sets no exception and runs no Python code. */
uint32_t gb_step_function_of(PyCodeObject *code);
/* Its code, or NULL when the number now means another or nothing. Borrowed: good until the GIL is given up. */
PyCodeObject *gb_step_function_code(uint32_t function, uint32_t serial);
gb_step_coroutine *gb_step_coroutine_find(const void *coroutine);
gb_step_coroutine *gb_step_coroutine_add(const void *coroutine, uint32_t function, uint64_t now, bool late);
/* Takes it out of the table and counts its life, unless it was met late. Moves others: earlier pointers are void. */
void gb_step_coroutine_end(gb_step_coroutine *c, unsigned status, uint64_t now);
/* Reconciling: first keep those that stepped at that time or later, then mark others, then end the rest. */
void gb_step_coroutines_keep_newer(uint64_t ns);
uint32_t gb_step_coroutines_end_unkept(void);
/* What was counted since the last take, as of _native.steps_take(). all: and gives up every function. */
PyObject *gb_step_functions_take(bool all);
/* Every coroutine; in a child, where dropping references is not safe, every function too. */
void gb_step_tables_forget(bool child);
size_t gb_step_tables_bytes(void);

/* ---- steps.c: what a thread's step is, for all to see without the GIL -------------------------------------------- */

#define GB_STEP_THREADS_MAX 256u

typedef struct {
    /* What every step writes is one line of memory. */
    _Alignas(
        64) _Atomic uint64_t seq; /* odd: a step runs, and the rest is its; changes only in its own thread, with the
                                          GIL */
    _Atomic uint64_t start_ns;
    _Atomic(PyThreadState *) state; /* never dereferenced before it was found among the living */
    _Atomic uint32_t serial;
    _Atomic uint32_t function;
    PyObject *coroutine;          /* strong while the step runs; with the GIL only */
    const void *outermost;        /* address of the step that runs; in its own thread only */
    uint64_t look_ns;             /* when to look for a new event loop */
    _Atomic unsigned long thread; /* as threading.get_ident() */
    _Atomic uint32_t used;        /* by a thread that lives */
} gb_step_record;
/* Threads that are gone give theirs back, memory never goes: whoever reads needs no lock. */
extern gb_step_record gb_step_records[GB_STEP_THREADS_MAX];
extern _Atomic uint32_t gb_step_records_used; /* those beyond were never used */
extern atomic_bool gb_steps_counting;
extern uint64_t gb_steps_counted, gb_step_threads_dropped;

bool gb_step_has_begun(PyObject *coroutine); /* of the exact type */

typedef PyObject *(*gb_step_throw_function)(PyObject *, PyObject *const *, Py_ssize_t);

/* What every step reads is one line of memory. */
typedef struct {
    _Alignas(64) sendfunc original_send; /* set once, before the wrapper is in place */
    PyInterpreterState *main_interpreter;
    uint64_t generation; /* steps that began in another are not counted: the tables were emptied meanwhile */
    /* The thread that stepped last, by the number of its state, which no other ever has (0: none), and its record. Most
     * programs have one loop, and asking for a thread's own memory is a call. */
    uint64_t last_thread;
    gb_step_record *last_record;
} gb_step_hot_state;
extern gb_step_hot_state gb_step_hot;
extern gb_step_throw_function gb_step_original_throw; /* set before the wrapper is in place */

/* The wrappers, as slot am_send and as method throw(). */
PySendResult gb_step_send(PyObject *coroutine, PyObject *arg, PyObject **result);
PyObject *gb_step_throw(PyObject *coroutine, PyObject *const *args, Py_ssize_t n);
/* Before the first step. -1 with an exception. */
int gb_step_threads_prepare(void);
void gb_step_threads_after_fork_child(void);

/* ---- step_place.c: puts the wrappers in place ---------------------------------------------------------------------- */

int gb_steps_start(void); /* -1 with an exception */
void gb_steps_stop(void);

/* ---- step_loops.c -------------------------------------------------------------------------------------------------- */

extern uint64_t gb_step_loops_dropped;
extern PyObject *gb_cancelled_error; /* asyncio's, once it is imported */
/* An ordinary call into Python; leaves exceptions as they were. */
void gb_step_loops_look(void);
PyObject *gb_step_loops_take(void); /* as of _native.steps_loops() */
void gb_step_loops_forget(bool release);

/* ---- blocks.c, watchdog.c -------------------------------------------------------------------------------------------- */

#define GB_BLOCKS_MAX 256u

/* Steps this long are told to gb_block_end(). */
extern _Atomic uint64_t gb_blocked_ns;
extern _Atomic uint64_t gb_clock_wants_gil_since; /* 0: the clock does not wait for it */

/* Opens a block if the step of that record has run as long. Once for each step. */
bool gb_block_notice_nopy(uint32_t record, uint64_t threshold_ns, uint64_t now);
/* True while there is a block without a stack; *held: because the GIL cannot be had. */
bool gb_blocks_review_nopy(uint64_t now, bool *held);
/* After the step was taken back from the record, in its own thread, without giving up the GIL in between. Runs no
 * Python code and leaves exceptions alone. */
void gb_block_end(uint32_t record, uint64_t seq, uint64_t start_ns, uint64_t busy_ns, uint32_t function,
                  uint32_t serial);
/* Takes the stack of every block that goes on and has none. Runs no Python code. */
void gb_blocks_capture(uint64_t now);
PyObject *gb_blocks_take(void); /* as of _native.blocks_take() */
void gb_blocks_count(uint64_t *seen, uint64_t *dropped);
void gb_blocks_steps_stopped(void);
/* Without dropping a reference: at the end of the interpreter, or in a forked child. */
void gb_blocks_forget(bool child);
void gb_watchdog_steps_stopped(void);

/* A thread's first step; with the GIL. Where no watchdog runs yet, the clock ends its turn, or its next at once. */
void gb_watchdog_first_step(void);

#endif
