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
#include "core.h"

#include <sched.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#define THREADS_MAX 4096u /* looked through at each sample */
#define THREADS_A_TICK 128u
#define EXCLUDED_MAX 64u
#define NODES_MAX 16384u
#define NODE_SLOTS 32768u
#define CODES_MAX 4096u
#define CODE_SLOTS 8192u
#define CACHE_SLOTS 2048u
#define ROWS_MAX 8192u
#define ROW_SLOTS 16384u
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

typedef struct {
    uint64_t wall_ns;
    uint64_t cpu_ns;
    unsigned long ident;
    uint32_t node;
    uint32_t code; /* of the coroutine, as of the tree of paths; 0: none */
    uint32_t samples;
} profile_row;

/* What one interval gathers. There are two: while one is read, and its call paths are asked for, the other gathers. */
typedef struct {
    gb_paths paths;
    profile_row *rows;
    uint32_t *row_index;
    uint32_t rows_used;
    uint64_t ticks, dropped;
} gathering;

#define BYTES_OF_ONE                                                                                                   \
    (NODES_MAX * sizeof(gb_node) + CODES_MAX * sizeof(void *) + CACHE_SLOTS * sizeof(gb_path_slot)                     \
     + ROWS_MAX * sizeof(profile_row) + (NODE_SLOTS + CODE_SLOTS + ROW_SLOTS) * sizeof(uint32_t))
#define TABLES_BYTES (2 * (BYTES_OF_ONE + THREADS_MAX * sizeof(seen_thread)))

static char *tables; /* one mapping, made on first use and kept */
static gathering both[2];
static unsigned active;
static seen_thread *threads, *spare; /* in the order of the interpreter's list, which is that of falling ids */
static uint32_t threads_known;
static uint64_t last_tick_ns, rng;
static bool taking;
static atomic_flag looking = ATOMIC_FLAG_INIT;
static uint64_t excluded[EXCLUDED_MAX];
static uint32_t excluded_used;
static uint64_t truncated_before, overflowed_before, rows_dropped; /* cumulative, of what was taken */

/* ---- memory --------------------------------------------------------------------------------------------------- */

static void *
carve(char **at, size_t bytes)
{
    void *p = *at;
    *at += bytes;
    return p;
}

/* False, without an exception, where there is no memory: there are then no samples. */
static bool
map_tables(void)
{
    if (tables != NULL)
        return true;
    if (gb_fork_install() < 0) {
        PyErr_Clear();
        return false;
    }
    char *p = mmap(NULL, TABLES_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        return false;
    char *at = p;
    for (gathering *g = both; g < both + 2; g++) {
        g->paths = (gb_paths){.nodes_used = GB_NODE_FIRST,
                              .codes_used = 1,
                              .nodes_max = NODES_MAX,
                              .codes_max = CODES_MAX,
                              .node_slots = NODE_SLOTS,
                              .code_slots = CODE_SLOTS,
                              .cache_slots = CACHE_SLOTS};
        g->paths.nodes = carve(&at, NODES_MAX * sizeof(gb_node));
        g->paths.codes = carve(&at, CODES_MAX * sizeof(void *));
        g->paths.cache = carve(&at, CACHE_SLOTS * sizeof(gb_path_slot));
        g->rows = carve(&at, ROWS_MAX * sizeof(profile_row));
        g->paths.node_index = carve(&at, NODE_SLOTS * sizeof(uint32_t));
        g->paths.code_index = carve(&at, CODE_SLOTS * sizeof(uint32_t));
        g->row_index = carve(&at, ROW_SLOTS * sizeof(uint32_t));
    }
    threads = carve(&at, THREADS_MAX * sizeof(seen_thread));
    spare = carve(&at, THREADS_MAX * sizeof(seen_thread));
    rng = gb_thread_seed_nopy();
    tables = p;
    return true;
}

/* Forgets what one interval gathered. Its code objects are put into `released`, to be let go when nothing of ours is
 * half done: that may run anything. */
static size_t
clear(gathering *g, PyCodeObject **released)
{
    gb_stacks_clear_locked(&g->paths);
    truncated_before += g->paths.truncated;
    overflowed_before += g->paths.overflowed;
    rows_dropped += g->dropped;
    g->paths.truncated = g->paths.overflowed = 0;
    memset(g->row_index, 0, ROW_SLOTS * sizeof(uint32_t));
    g->rows_used = 0;
    g->ticks = g->dropped = 0;
    return gb_codes_take_locked(&g->paths, released);
}

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

void
gb_threads_after_fork_child(void)
{
    /* Agents' threads are not in the child, and what was gathered is the parent's. */
    excluded_used = 0;
    atomic_flag_clear(&looking);
    taking = false;
    threads_known = 0;
    last_tick_ns = 0;
    truncated_before = overflowed_before = rows_dropped = 0;
    if (tables == NULL || madvise(tables, TABLES_BYTES, MADV_DONTNEED) != 0)
        return;
    /* Zeroed, without copying one page of the parent's. The code objects stay referenced: see fork.c. */
    for (gathering *g = both; g < both + 2; g++) {
        g->paths.nodes_used = GB_NODE_FIRST;
        g->paths.codes_used = 1;
        g->paths.truncated = g->paths.overflowed = 0;
        g->rows_used = 0;
        g->ticks = g->dropped = 0;
    }
    rng = gb_thread_seed_nopy();
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
meet(gathering *g, uint64_t wall_ns, bool afresh)
{
    uint32_t count = 0, before = 0;
    uint64_t met = 0;
    bool some_new = false;
    PyThreadState *ts = PyInterpreterState_ThreadHead(PyInterpreterState_Main());
    for (; ts != NULL; ts = PyThreadState_Next(ts)) {
        uint64_t id = PyThreadState_GetID(ts);
        if (gb_threads_is_excluded(id))
            continue;
        if (++met > THREADS_MAX) {
            g->dropped++;
            if (met > 2 * THREADS_MAX)
                break;
            continue;
        }
        while (before < threads_known && threads[before].id > id)
            before++;
        seen_thread *t = &spare[count++];
        bool known = !afresh && before < threads_known && threads[before].id == id
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
    threads_known = count;
    if (some_new)
        choose(count, true, THREADS_A_TICK / 2.0);
}

static void
add(gathering *g, const profile_row *sample)
{
    uint64_t h = ((uint64_t)sample->node << 32 | sample->code) ^ (uint64_t)sample->ident * UINT64_C(0xBF58476D1CE4E5B9);
    uint32_t i = (uint32_t)((h * UINT64_C(0x9E3779B97F4A7C15)) >> 40) & (ROW_SLOTS - 1);
    profile_row *row = NULL;
    for (; g->row_index[i] != 0; i = (i + 1) & (ROW_SLOTS - 1)) {
        row = &g->rows[g->row_index[i] - 1];
        if (row->node == sample->node && row->ident == sample->ident && row->code == sample->code)
            break;
    }
    if (g->row_index[i] == 0) {
        if (g->rows_used == ROWS_MAX) {
            g->dropped++;
            return;
        }
        row = &g->rows[g->rows_used++];
        g->row_index[i] = g->rows_used;
        *row = (profile_row){.node = sample->node, .ident = sample->ident, .code = sample->code};
    }
    row->wall_ns += sample->wall_ns;
    row->cpu_ns += sample->cpu_ns;
    row->samples++;
}

static void
sample_one(gathering *g, seen_thread *t, uint64_t wall_ns)
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
    profile_row sample = {
        .node = gb_intern_locked(&g->paths, frames, n, truncated, gb_label_of_thread(t->ts)),
        .code = coroutine == NULL ? 0 : gb_intern_code_locked(&g->paths, coroutine),
        .ident = t->ts->thread_id,
        .wall_ns = (uint64_t)((double)wall_ns * (double)t->weight),
    };
    if (computing) {
        sample.cpu_ns = t->unplaced_ns;
        t->unplaced_ns = 0;
    }
    add(g, &sample);
}

void
gb_threads_look_nopy(void)
{
    if (tables == NULL)
        return;
    begin();
    for (uint32_t i = 0; i < threads_known; i++) {
        if (threads[i].weight > 0.0f)
            threads[i].looked_ns = cpu_clock_nopy(threads[i].native_id);
    }
    end();
}

void
gb_threads_sample(uint64_t wall_ns)
{
    if (!map_tables())
        return;
    begin();
    gathering *g = &both[active];
    uint64_t now_ns = gb_monotonic_ns();
    /* After a pause the clocks tell of time that no sample stands for. */
    bool afresh = last_tick_ns == 0 || now_ns - last_tick_ns > 2 * wall_ns + PAUSE_NS;
    last_tick_ns = now_ns;
    meet(g, wall_ns, afresh);
    for (uint32_t i = 0; i < threads_known; i++) {
        if (threads[i].weight > 0.0f)
            sample_one(g, &threads[i], wall_ns);
        threads[i].looked_ns = 0;
        threads[i].is_new = false;
        threads[i].ts = NULL;
    }
    choose(threads_known, false, THREADS_A_TICK);
    g->ticks++;
    end();
}

/* ---- the Python face ------------------------------------------------------------------------------------------ */

static PyObject *
rows_to_python(const gathering *g, uint32_t *index_of_code, PyObject *codes)
{
    PyObject *rows = PyList_New((Py_ssize_t)g->rows_used);
    if (rows == NULL)
        return NULL;
    for (uint32_t i = 0; i < g->rows_used; i++) {
        const profile_row *r = &g->rows[i];
        if (r->code != 0 && index_of_code[r->code] == 0) {
            if (PyList_Append(codes, (PyObject *)g->paths.codes[r->code]) < 0) {
                Py_DECREF(rows);
                return NULL;
            }
            index_of_code[r->code] = (uint32_t)PyList_GET_SIZE(codes);
        }
        PyObject *row = Py_BuildValue("(IkiIKK)", r->node, r->ident, (int)index_of_code[r->code] - 1, r->samples,
                                      (unsigned long long)r->wall_ns, (unsigned long long)r->cpu_ns);
        if (row == NULL) {
            Py_DECREF(rows);
            return NULL;
        }
        PyList_SET_ITEM(rows, (Py_ssize_t)i, row);
    }
    return rows;
}

static PyObject *
native_threads_take(PyObject *self, PyObject *args)
{
    (void)self;
    (void)args;
    if (tables == NULL)
        return Py_BuildValue("([][]ii)", 0, 0);
    if (taking) {
        PyErr_SetString(PyExc_RuntimeError, "Samples of threads are being taken in another thread.");
        return NULL;
    }
    PyCodeObject **released = malloc(CODES_MAX * sizeof(*released));
    uint32_t *index_of_code = calloc(CODES_MAX, sizeof(*index_of_code));
    PyObject *codes = PyList_New(0), *rows = NULL;
    size_t count = 0;
    if (released == NULL || index_of_code == NULL || codes == NULL) {
        PyErr_NoMemory();
        goto done;
    }
    taking = true; /* making objects may let the GIL go */
    begin();
    count = clear(&both[1 - active], released);
    active = 1 - active;
    end();
    const gathering *g = &both[1 - active];
    rows = rows_to_python(g, index_of_code, codes);
    for (size_t i = 0; i < count; i++)
        Py_DECREF(released[i]);
    taking = false;
done:
    free(released);
    free(index_of_code);
    if (rows == NULL) {
        Py_XDECREF(codes);
        return NULL;
    }
    return Py_BuildValue("(NNKK)", rows, codes, (unsigned long long)both[1 - active].ticks,
                         (unsigned long long)both[1 - active].dropped);
}

static PyObject *
native_threads_stack(PyObject *self, PyObject *arg)
{
    (void)self;
    unsigned long node = PyLong_AsUnsignedLong(arg);
    if (node == (unsigned long)-1 && PyErr_Occurred())
        return NULL;
    const gb_paths *paths = &both[1 - active].paths;
    if (node == GB_NODE_NONE || node == GB_NODE_TRUNCATED || node >= paths->nodes_used) {
        PyErr_SetObject(PyExc_KeyError, arg);
        return NULL;
    }
    return gb_path_to_python(paths, (uint32_t)node);
}

static PyObject *
native_threads_sample(PyObject *self, PyObject *arg)
{
    (void)self;
    unsigned long long wall_ns = PyLong_AsUnsignedLongLong(arg);
    if (wall_ns == (unsigned long long)-1 && PyErr_Occurred())
        return NULL;
    gb_threads_sample(wall_ns);
    Py_RETURN_NONE;
}

static PyObject *
native_threads_look(PyObject *self, PyObject *args)
{
    (void)self;
    (void)args;
    gb_threads_look_nopy();
    Py_RETURN_NONE;
}

static PyObject *
native_threads_statistics(PyObject *self, PyObject *args)
{
    (void)self;
    (void)args;
    const gathering *a = &both[0], *b = &both[1];
    const gathering *now = &both[active];
    return Py_BuildValue("{s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:K,s:K,s:K,s:K}", "threads", threads_known, "threads_max",
                         THREADS_MAX, "nodes", now->paths.nodes_used, "nodes_max", NODES_MAX, "codes",
                         now->paths.codes_used == 0 ? 0 : now->paths.codes_used - 1, "codes_max", CODES_MAX, "rows",
                         now->rows_used, "rows_max", ROWS_MAX, "dropped",
                         (unsigned long long)(rows_dropped + a->dropped + b->dropped), "truncated",
                         (unsigned long long)(truncated_before + a->paths.truncated + b->paths.truncated), "overflowed",
                         (unsigned long long)(overflowed_before + a->paths.overflowed + b->paths.overflowed),
                         "tables_bytes", (unsigned long long)(tables == NULL ? 0 : TABLES_BYTES));
}

PyMethodDef gb_thread_methods[] = {
    {"threads_take", native_threads_take, METH_NOARGS, NULL},
    {"threads_stack", native_threads_stack, METH_O, NULL},
    {"threads_roots", gb_threads_roots, METH_NOARGS, NULL},
    {"threads_statistics", native_threads_statistics, METH_NOARGS, NULL},
    {"_threads_look", native_threads_look, METH_NOARGS, NULL},
    {"_threads_sample", native_threads_sample, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};
