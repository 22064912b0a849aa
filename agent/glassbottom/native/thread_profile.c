/* thread_profile.c: what samples of threads add up to, by call path, thread and coroutine; and reads it out.
 *
 * Everything needs the GIL.
 */
#include "threads.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define NODES_MAX 16384u
#define NODE_SLOTS 32768u
#define CODES_MAX 4096u
#define CODE_SLOTS 8192u
#define CACHE_SLOTS 2048u
#define ROWS_MAX 8192u
#define ROW_SLOTS 16384u
#define BYTES_OF_ONE                                                                                                   \
    (NODES_MAX * sizeof(gb_node) + CODES_MAX * sizeof(void *) + CACHE_SLOTS * sizeof(gb_path_slot)                     \
     + ROWS_MAX * sizeof(gb_profile_row) + (NODE_SLOTS + CODE_SLOTS + ROW_SLOTS) * sizeof(uint32_t))

static char *tables; /* one mapping, made on first use and kept */
static size_t tables_bytes;
static gb_profile both[2];
static unsigned active;
static bool taking;
static uint64_t truncated_before, overflowed_before, rows_dropped; /* cumulative, of what was taken */

/* ---- memory --------------------------------------------------------------------------------------------------- */

static void *
carve(char **at, size_t bytes)
{
    void *p = *at;
    *at += bytes;
    return p;
}

void *
gb_profile_map(size_t more)
{
    if (tables != NULL)
        return tables + tables_bytes - more;
    if (gb_fork_install() < 0) {
        PyErr_Clear();
        return NULL;
    }
    size_t bytes = 2 * BYTES_OF_ONE + more;
    char *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        return NULL;
    char *at = p;
    for (gb_profile *g = both; g < both + 2; g++) {
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
        g->rows = carve(&at, ROWS_MAX * sizeof(gb_profile_row));
        g->paths.node_index = carve(&at, NODE_SLOTS * sizeof(uint32_t));
        g->paths.code_index = carve(&at, CODE_SLOTS * sizeof(uint32_t));
        g->row_index = carve(&at, ROW_SLOTS * sizeof(uint32_t));
    }
    tables = p;
    tables_bytes = bytes;
    return at;
}

gb_profile *
gb_profile_now(void)
{
    return &both[active];
}

/* Forgets what one interval gathered. Its code objects are put into `released`, to be let go when nothing of ours is
 * half done: that may run anything. */
static size_t
clear(gb_profile *g, PyCodeObject **released)
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

void
gb_profile_add(gb_profile *g, const gb_profile_row *sample)
{
    uint64_t h = ((uint64_t)sample->node << 32 | sample->code) ^ (uint64_t)sample->ident * UINT64_C(0xBF58476D1CE4E5B9);
    uint32_t i = (uint32_t)((h * UINT64_C(0x9E3779B97F4A7C15)) >> 40) & (ROW_SLOTS - 1);
    gb_profile_row *row = NULL;
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
        *row = (gb_profile_row){.node = sample->node, .ident = sample->ident, .code = sample->code};
    }
    row->wall_ns += sample->wall_ns;
    row->cpu_ns += sample->cpu_ns;
    row->samples++;
}

void
gb_profile_forget(void)
{
    taking = false;
    truncated_before = overflowed_before = rows_dropped = 0;
    if (tables == NULL || madvise(tables, tables_bytes, MADV_DONTNEED) != 0)
        return;
    /* Zeroed, in a child without copying one page of the parent's. The code objects stay referenced: see fork.c. */
    for (gb_profile *g = both; g < both + 2; g++) {
        g->paths.nodes_used = GB_NODE_FIRST;
        g->paths.codes_used = 1;
        g->paths.truncated = g->paths.overflowed = 0;
        g->rows_used = 0;
        g->ticks = g->dropped = 0;
    }
}

/* ---- the Python face ------------------------------------------------------------------------------------------ */

static PyObject *
rows_to_python(const gb_profile *g, uint32_t *index_of_code, PyObject *codes)
{
    PyObject *rows = PyList_New((Py_ssize_t)g->rows_used);
    if (rows == NULL)
        return NULL;
    for (uint32_t i = 0; i < g->rows_used; i++) {
        const gb_profile_row *r = &g->rows[i];
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
    count = clear(&both[1 - active], released);
    active = 1 - active;
    const gb_profile *g = &both[1 - active];
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
    const gb_profile *a = &both[0], *b = &both[1];
    const gb_profile *now = &both[active];
    return Py_BuildValue("{s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:K,s:K,s:K,s:K}", "threads", gb_threads_known,
                         "threads_max", GB_THREADS_MAX, "nodes", now->paths.nodes_used, "nodes_max", NODES_MAX, "codes",
                         now->paths.codes_used == 0 ? 0 : now->paths.codes_used - 1, "codes_max", CODES_MAX, "rows",
                         now->rows_used, "rows_max", ROWS_MAX, "dropped",
                         (unsigned long long)(rows_dropped + a->dropped + b->dropped), "truncated",
                         (unsigned long long)(truncated_before + a->paths.truncated + b->paths.truncated), "overflowed",
                         (unsigned long long)(overflowed_before + a->paths.overflowed + b->paths.overflowed),
                         "tables_bytes", (unsigned long long)tables_bytes);
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
