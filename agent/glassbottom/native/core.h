/* core.h: what the files of the core share. One idea per file:
 *
 *   sampler.c   which allocations are kept, and how much each stands for
 *   table.c     the bounded table of live samples, and the filter in front of it
 *   stack.c     walks Python frames and remembers call paths
 *   types.c     which type lives in a sampled block
 *   hooks.c     the allocator hooks
 *   chain.c     where they are put: the only place that replaces allocators
 *   places.c    where the interpreter keeps them
 *   windows.c   when small blocks are watched
 *   snapshot.c  reads everything out
 *   labels.c      what the process works on: the route that a context variable holds
 *   operations.c  histograms of durations
 *   calls.c, call_pieces.c, call_operations.c  calls under glassbottom.profile
 *   spans.c       what is done at the start and at the end of every span of OpenTelemetry's
 *   requests.c    requests that we see ourselves, where there is none
 *   doors.c       the way of one through an ASGI application
 *   span_records.c   what both keep of what is open, and of names
 *   steps.c       every step of every coroutine that an event loop runs
 *   step_place.c  puts the wrapper in place and takes it away
 *   step_clock.c  the clock that is read in every step
 *   step_tables.c coroutine functions, and coroutines
 *   step_loops.c  which event loops there are
 *   step_report.c reads steps out
 *   watchdog.c    what holds a loop, while it does; and the clock that samples threads
 *   blocks.c      the steps that held one, until they are told
 *   threads.c, thread_profile.c, thread_roots.c   where every thread is
 *   memory.c      whose the resident memory is
 *   safepoint.c   asks the main thread to do something between two instructions
 *   dump.c, dump_*.c   the heap dump, see dump.h
 *   fork.c        what a forked child must forget
 *   python_end.c  what must be forgotten when the interpreter ends
 *   module.c      the Python face of the heap, and the methods of all
 *
 * Contracts in names: _nopy calls no Python API and may run without the GIL; _gil needs the GIL but allocates
 * nothing and runs no Python code; _locked needs gb_lock(). Everything else runs in an ordinary call.
 *
 * Locking: one spin lock guards the table, the filter's writers and the call paths. No CPython code runs under it, so
 * it cannot deadlock with the GIL.
 */
#ifndef GB_CORE_H
#define GB_CORE_H

#include "compat.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define GB_SMALL_BYTES_MAX 512 /* pymalloc's SMALL_REQUEST_THRESHOLD: above it blocks come from the raw allocator */
#define GB_LIKELY(x) __builtin_expect(!!(x), 1)
#define GB_UNLIKELY(x) __builtin_expect(!!(x), 0)

/* ---- sampler.c ------------------------------------------------------------------------------------------------ */

typedef struct {
    double interval_bytes; /* mean bytes between samples of blocks seen by the raw hook, all the time */
    double share;          /* probability that a moment lies in a window; 1: always */
    double window_ns;
} gb_rate;

extern gb_rate gb_rate_now;     /* written with the GIL */
extern atomic_bool gb_sampling; /* false: every hook only passes through */

/* Per thread. A thread that allocates without the GIL has one too, so no counter here is shared. */
typedef struct {
    int64_t raw_left;    /* bytes until the next raw sample */
    double raw_interval; /* the rate under which raw_left was drawn */
    uint64_t rng;
    uint32_t raw_reallocs; /* how often the raw realloc hook ran: tells whether a block was outside the arenas */
    bool ready;
    bool busy;            /* inside our own code: hooks pass through */
    int64_t raw_drawn;    /* raw bytes seen by this thread = drawn - left */
    double small_sampled; /* estimate of the bytes it allocated in small blocks */
    bool excluded;        /* the agent's own threads */
    bool forking;         /* holds the lock across fork(): other handlers that run meanwhile must not wait for it */
    /* The raw sample taken last: its block, call path and instruction, and how far the countdown was then. */
    const void *newest, *newest_code; /* never dereferenced */
    int64_t newest_left;
    uint32_t newest_node;
    int32_t newest_offset;
    uint8_t probing; /* GB_PROBE_…: an allocation made only to see whether a hook is still in the chain */
    bool probe_seen;
} gb_thread;
extern __thread gb_thread gb_tls;

/* What this thread allocates from one to the other is ours, and no sample: what we add to a context may outlive its
 * request in a line of the application's, and must not accuse it. No Python code in between. */
typedef struct {
    int64_t raw_left;
    bool busy;
} gb_ours;

static inline gb_ours
gb_ours_begin(void)
{
    gb_ours before = {gb_tls.raw_left, gb_tls.busy};
    gb_tls.busy = true;
    return before;
}

static inline void
gb_ours_end(gb_ours before)
{
    gb_tls.busy = before.busy;
    gb_tls.raw_left = before.raw_left;
}

enum { GB_PROBE_NONE = 0, GB_PROBE_RAW = 1, GB_PROBE_SMALL = 2 };

void gb_seed(uint64_t seed);
uint64_t gb_random_nopy(uint64_t *state);
uint64_t gb_thread_seed_nopy(void);
/* Exponential with this mean, as a whole number of bytes that end before the point. */
int64_t gb_draw_nopy(uint64_t *state, double mean);
/* Probability that a block of this size is hit at this interval: 1 - exp(-size / interval). */
double gb_hit_probability_nopy(double size, double interval_bytes);

/* ---- table.c -------------------------------------------------------------------------------------------------- */

enum { GB_DOMAIN_RAW = 0, GB_DOMAIN_MEM = 1, GB_DOMAIN_OBJ = 2 };

typedef struct {
    void *ptr; /* NULL: slot is free */
    uint64_t size;
    int64_t birth_ms; /* Unix epoch */
    double interval_bytes;
    float share;     /* probability that the moment of its birth was watched */
    uint32_t window; /* which window; 0: watched all the time */
    uint32_t node;
    uint32_t type;    /* index into names + 1; 0: not resolved */
    uint32_t domain;  /* GB_DOMAIN_… */
    uint32_t padding; /* the slot is 56 bytes */
} gb_sample;

#define GB_TABLE_SLOTS 32768u
#define GB_SAMPLES_MAX 24576u  /* three quarters: linear probing stays short */
#define GB_THIN_AT 22118u      /* 90 % of that: thin before the table is full */
#define GB_FILTER_SLOTS 16384u /* L1-resident */

typedef struct {
    gb_sample *slots;
    uint32_t live;
    uint64_t taken;   /* samples ever put */
    uint64_t dropped; /* no room even after thinning */
    uint64_t thinnings;
} gb_table;
extern gb_table gb_live;
extern _Atomic uint8_t gb_filter[GB_FILTER_SLOTS];

void gb_lock(void);
void gb_unlock(void);
void gb_lock_reset(void);

static inline uint64_t
gb_hash_pointer(const void *p)
{
    return ((uint64_t)(uintptr_t)p >> 4) * UINT64_C(0x9E3779B97F4A7C15);
}

/* False for every block that is certainly not sampled. One load; runs on every raw free. */
static inline bool
gb_maybe_sampled_nopy(const void *p)
{
    return atomic_load_explicit(&gb_filter[gb_hash_pointer(p) >> 50], memory_order_relaxed) != 0;
}

bool gb_table_put_locked(const gb_sample *s);
gb_sample *gb_table_find_locked(const void *p); /* NULL when there is none */
/* Removes a sample and hands it out; false when there is none. Takes the lock. */
bool gb_table_take_nopy(const void *p, gb_sample *out);
/* Keeps each sample with the probability that makes the rest an unbiased sample at the coarser interval. */
void gb_table_thin_locked(double interval_bytes);
void gb_table_clear_locked(void);
/* Weight: how many blocks like this one the sample stands for. */
double gb_weight_nopy(const gb_sample *s);

/* ---- stack.c -------------------------------------------------------------------------------------------------- */

#define GB_FRAMES_MAX 96u
#define GB_WALK_MAX 1024u
#define GB_NODES_MAX 65536u
#define GB_CODES_MAX 16384u
#define GB_CODES_DEAD_MIN 256u /* so many code objects more than last time, and it is seen whether some are dead */
#define GB_NODE_INDEX_SLOTS 131072u
#define GB_CODE_INDEX_SLOTS 32768u
#define GB_PATH_CACHE_SLOTS 4096u
#define GB_PATH_CACHE_BYTES (GB_PATH_CACHE_SLOTS * 16u)

enum { GB_NODE_NONE = 0, GB_NODE_OVERFLOW = 1, GB_NODE_TRUNCATED = 2, GB_NODE_NATIVE = 3, GB_NODE_FIRST = 4 };

typedef struct {
    PyCodeObject *code; /* borrowed */
    int32_t offset;     /* byte offset of the instruction; -1: not started */
} gb_frame;

typedef struct {
    uint32_t parent;
    uint32_t code;
    int32_t offset;
    uint32_t dirty; /* the type of a live sample changed since the last snapshot */
    double alloc_bytes;
    double alloc_objects;
    double told_live_bytes; /* as of the last snapshot */
    double told_alloc_bytes;
} gb_node;

typedef struct {
    uint64_t hash;
    uint32_t node;
} gb_path_slot;

typedef struct {
    gb_node *nodes; /* one without code stands for a label, which is its offset */
    uint32_t *node_index;
    PyCodeObject **codes; /* one strong reference each; id 0 is not used */
    uint32_t *code_index;
    gb_path_slot *cache;
    uint32_t nodes_used, nodes_max, node_slots; /* slots are powers of two, at least twice the maximum */
    uint32_t codes_used, codes_max, code_slots;
    uint32_t codes_released; /* of codes_used: those let go of by gb_codes_release_dead_locked() */
    uint32_t cache_slots;
    uint64_t truncated;
    uint64_t overflowed;
} gb_paths;
extern gb_paths gb_stacks; /* the heap's */

/* Innermost first, of any thread. Returns how many; *truncated says whether there were more. */
unsigned gb_walk_gil(PyThreadState *ts, gb_frame frames[GB_FRAMES_MAX], bool *truncated);
uint32_t gb_intern_locked(gb_paths *g, const gb_frame *frames, unsigned n, bool truncated, uint32_t label);
/* The number of a code object, which is kept alive; 0 when the table is full. */
uint32_t gb_intern_code_locked(gb_paths *g, PyCodeObject *code);
void gb_stacks_clear_locked(gb_paths *g);
/* Hands out every code reference, to be released outside the lock; returns how many. Only when no node is left. */
size_t gb_codes_take_locked(gb_paths *g, PyCodeObject **released);
PyObject *gb_path_to_python(const gb_paths *g, uint32_t node); /* (frames, truncated, label) as of _native.stack() */
/* Of the heap, under the GIL: lets go of code objects that only we hold and no live sample needs; their functions are gone.
 * Numbers stay as they are. Returns how many, put into `released` as below. Given as zeroes: live_nodes, one for each of
 * nodes_used; live_codes, one for each of codes_used. */
size_t gb_codes_release_dead_locked(PyCodeObject **released, uint32_t *live_nodes, uint8_t *live_codes);
/* Of the heap: drops what no live sample needs. Returns how many nodes and codes went; the codes, to be released outside the lock,
 * are put into `released` (room for GB_CODES_MAX). */
size_t gb_stacks_compact_locked(PyCodeObject **released, size_t *released_count, gb_node *scratch, uint32_t *map);

/* ---- types.c -------------------------------------------------------------------------------------------------- */

#define GB_TYPES_MAX 16384u
#define GB_TYPE_SLOTS 32768u

typedef struct {
    void *type; /* never dereferenced: it may be gone */
    uint32_t name;
    uint32_t basicsize;
    uint32_t offset;
} gb_type_entry;

extern uint32_t gb_types_known;
extern bool gb_types_missed;
int gb_types_init(void); /* -1 with an exception */
/* Looks at up to `limit` classes, and swaps the finished set in. Never raises. */
bool gb_types_step(unsigned limit); /* true: there is more to do */
/* Copies the first bytes of blocks; read[i] tells whether block i could be read. Never faults. */
#define GB_HEAD_BYTES 48u
void gb_read_heads(const void *const *blocks, const size_t *sizes, size_t count, char (*heads)[GB_HEAD_BYTES],
                   bool *read);
/* Index of the type's name + 1, or 0, from the first bytes of a block of this size. */
uint32_t gb_type_of_head(const char *start, size_t size);
PyObject *gb_type_names(void); /* borrowed list */
uint32_t gb_label_index(uint32_t domain);
void gb_types_reset(void);

/* ---- hooks.c, chain.c -------------------------------------------------------------------------------------------------- */

extern uint64_t gb_hook_losses;
extern _Atomic uint64_t gb_sample_ns;      /* from the begin to the end of samples: what windows are prolonged by */
extern _Atomic uint64_t gb_sample_cost_ns; /* the same without waiting for a CPU */
extern _Atomic uint32_t gb_epoch;          /* changes under the lock */
extern char gb_pause_reason[256];          /* empty: the hooks are where they should be */

const char *gb_refusal(void);
bool gb_raw_install(void); /* false: gb_pause_reason says why */
bool gb_raw_check(void);   /* puts it back, with the tables cleared, when another tool removed it */
/* Looks who is in the chains and prepares the next windows; with the GIL. False: gb_pause_reason says why not. */
bool gb_hooks_check(void);
bool gb_window_open_nopy(uint32_t id, double share); /* false: the chain changed since the check */
void gb_window_close_nopy(void);
bool gb_window_is_open(void);
void gb_small_begin(void);
uint64_t gb_window_bytes(void); /* small allocations seen by the hooks */
void gb_hooks_remove(void);
/* Calls with the object allocator as it is below our hook. */
void gb_without_small_hook_gil(void (*call)(void *), void *argument);
void gb_hooks_before_fork(void);
void gb_hooks_after_fork_parent(void);
void gb_hooks_after_fork_child(void);

/* ---- windows.c ------------------------------------------------------------------------------------------------ */

extern uint64_t gb_windows_opened;
extern uint64_t gb_windows_open_ns;
extern uint64_t gb_windows_watched_ns; /* time the schedule has been running */
int gb_windows_run(double seconds);    /* -1 with an exception */
void gb_windows_interrupt(void);
void gb_windows_begin(void);
void gb_windows_after_fork_child(void);

/* ---- labels.c -------------------------------------------------------------------------------------------------- */

#define GB_LABELS_MAX 4096u
/* The label in the context of this thread state; ts must be the caller's own. In a hook: allocates nothing. */
uint32_t gb_label_gil(PyThreadState *ts);
/* The label in the context of another thread's state. An ordinary call; never raises. */
uint32_t gb_label_of_thread(PyThreadState *ts);
extern PyMethodDef gb_label_methods[];
void gb_labels_python_ended(void);

/* ---- operations.c ---------------------------------------------------------------------------------------------- */

/* Exponential histograms of nanoseconds, scale 4 of seconds: 16 buckets a doubling, an error of 2.2 %. */
#define GB_HISTOGRAM_BUCKETS 640u /* 1 ns to 18 minutes; longer durations count in the last */
#define GB_HISTOGRAM_OFFSET (-480)
typedef struct {
    uint32_t counts[GB_HISTOGRAM_BUCKETS];
} gb_histogram;
/* Which bucket, from 0. */
unsigned gb_bucket_nopy(uint64_t ns);
/* (offset, counts) without empty ends; counts as bytes, a new reference. -1 with an exception. */
int gb_histogram_to_python(const gb_histogram *h, int *offset, PyObject **counts);
int gb_operations_add_types(PyObject *module); /* -1 with an exception */
bool gb_operations_check(PyObject *object);
/* As OperationTable.record(), with the GIL; a slot that does not exist is ignored. */
void gb_operation_record(PyObject *table, int64_t slot, int64_t duration_ns, int64_t self_ns, int64_t cpu_user_ns,
                         int64_t cpu_system_ns, int64_t busy_ns, double alloc_bytes);

/* ---- calls.c --------------------------------------------------------------------------------------------------- */

extern PyMethodDef gb_call_methods[];
int gb_calls_add_types(PyObject *module); /* -1 with an exception */

/* ---- spans.c --------------------------------------------------------------------------------------------------- */

int gb_spans_add_types(PyObject *module); /* -1 with an exception */

/* ---- awaits.c, steps.c, watchdog.c, threads.c ------------------------------------------------------------------ */

extern PyMethodDef gb_await_methods[];
extern PyMethodDef gb_step_methods[];
extern PyMethodDef gb_watchdog_methods[];
extern PyMethodDef gb_thread_methods[];
extern PyMethodDef gb_memory_methods[];
extern PyMethodDef gb_capture_methods[];
void gb_steps_after_fork_child(void);
void gb_watchdog_after_fork_child(void);
void gb_threads_after_fork_child(void);
/* At the end of the interpreter. */
void gb_steps_python_ended(void);
void gb_watchdog_python_ended(void);
void gb_threads_python_ended(void);
/* Code of the coroutine whose step runs in that thread, borrowed, or NULL. With the GIL. */
PyCodeObject *gb_step_code_gil(unsigned long thread_id);
/* Reads the threads' CPU clocks; to be called just before the GIL is wanted for gb_threads_sample(), so that it can
 * tell who is computing. */
void gb_threads_look_nopy(void);
/* One sample of every thread; wall_ns: what it stands for. With the GIL, in an ordinary call; never raises. */
void gb_threads_sample(uint64_t wall_ns);
void gb_threads_exclude(void);            /* the calling thread, which holds the GIL */
bool gb_threads_is_excluded(uint64_t id); /* by the id of its thread state */
PyObject *gb_threads_roots(PyObject *self, PyObject *args);

/* ---- safepoint.c ------------------------------------------------------------------------------------------------ */

/* The call is made in the main thread, with the GIL, between two instructions. False when it will not be. */
bool gb_ask_main_thread_nopy(int (*call)(void *));

/* ---- snapshot.c, fork.c, python_end.c --------------------------------------------------------------------------- */

extern uint64_t gb_snapshot_ns;
/* Of the last snapshot: live bytes of what Python has from malloc, not from pymalloc, and their variance. */
extern double gb_large_bytes, gb_large_variance;
extern bool gb_large_known;
void gb_snapshot_after_fork_child(void);
PyObject *gb_snapshot(void);
int gb_fork_install(void);
/* Once in the life of an interpreter. Where Python has no room for it nothing is forgotten. */
void gb_python_end_install(void);

/* ---- clocks --------------------------------------------------------------------------------------------------- */

uint64_t gb_monotonic_ns(void);
int64_t gb_realtime_ns(void);

#endif
