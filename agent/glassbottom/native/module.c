/* module.c: the Python face of the core; see _native.pyi. Method table, argument checks, tables' memory, nothing else. */
#include "core.h"
#include "dump.h"

#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

static bool started;
static uint64_t started_at_ns;

#define TABLES_BYTES                                                                                                   \
    (GB_TABLE_SLOTS * sizeof(gb_sample) + GB_NODES_MAX * sizeof(gb_node) + GB_NODE_INDEX_SLOTS * sizeof(uint32_t)      \
     + GB_CODES_MAX * sizeof(void *) + GB_CODE_INDEX_SLOTS * sizeof(uint32_t))

/* One mapping for everything a hook writes. It is never given back: a hook may be on its way into it. */
static int
map_tables(void)
{
    if (gb_live.slots != NULL)
        return 0;
    char *p = mmap(NULL, TABLES_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) {
        PyErr_SetFromErrno(PyExc_OSError);
        return -1;
    }
    gb_stacks.nodes = (gb_node *)(p + GB_TABLE_SLOTS * sizeof(gb_sample));
    gb_stacks.codes = (PyCodeObject **)(gb_stacks.nodes + GB_NODES_MAX);
    gb_stacks.node_index = (uint32_t *)(gb_stacks.codes + GB_CODES_MAX);
    gb_stacks.code_index = gb_stacks.node_index + GB_NODE_INDEX_SLOTS;
    gb_live.slots = (gb_sample *)p;
    return 0;
}

static PyObject *
native_refusal(PyObject *self, PyObject *args)
{
    (void)self;
    (void)args;
    const char *reason = gb_refusal();
    if (reason == NULL)
        Py_RETURN_NONE;
    return PyUnicode_FromString(reason);
}

static int
check_rate(double interval_bytes, double window_share, double window_ms)
{
    if (!(interval_bytes >= 4096.0 && interval_bytes <= 1e12)) {
        PyErr_SetString(PyExc_ValueError,
                        "interval_bytes must be between 4096 and 1e12: below that, sampling costs more "
                        "than it tells.");
        return -1;
    }
    if (!(window_share > 0.0 && window_share <= 1.0)) {
        PyErr_SetString(PyExc_ValueError, "window_share must be above 0 and at most 1.");
        return -1;
    }
    if (!(window_ms >= 1.0 && window_ms <= 1000.0)) {
        PyErr_SetString(PyExc_ValueError, "window_ms must be between 1 and 1000.");
        return -1;
    }
    return 0;
}

static PyObject *
native_start(PyObject *self, PyObject *args, PyObject *kwargs)
{
    (void)self;
    static char *names[] = {"interval_bytes", "window_share", "window_ms", "seed", NULL};
    double interval_bytes = 524288.0, window_share = 0.1, window_ms = 20.0;
    PyObject *seed = Py_None;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|$dddO:start", names, &interval_bytes, &window_share, &window_ms,
                                     &seed)
        || check_rate(interval_bytes, window_share, window_ms) < 0)
        return NULL;
    if (started && atomic_load(&gb_sampling))
        Py_RETURN_NONE;
    const char *reason = gb_refusal();
    if (reason != NULL) {
        PyErr_SetString(PyExc_RuntimeError, reason);
        return NULL;
    }
    uint64_t seed_value = gb_monotonic_ns() ^ (uint64_t)gb_realtime_ns() << 20 ^ (uint64_t)(uintptr_t)&seed;
    if (seed != Py_None) {
        seed_value = PyLong_AsUnsignedLongLongMask(seed);
        if (seed_value == (uint64_t)-1 && PyErr_Occurred())
            return NULL;
    }
    if (map_tables() < 0 || gb_types_init() < 0 || gb_fork_install() < 0)
        return NULL;
    gb_seed(seed_value);
    gb_rate_now = (gb_rate){interval_bytes, window_share, window_ms * 1e6};
    gb_pause_reason[0] = '\0';
    if (!gb_raw_install()) {
        PyErr_SetString(PyExc_RuntimeError, gb_pause_reason);
        return NULL;
    }
    gb_tls.ready = false; /* draw anew under this seed and rate */
    gb_tls.raw_drawn -= gb_tls.raw_left;
    gb_tls.raw_left = 0;
    gb_small_begin();
    gb_live.taken = gb_live.dropped = gb_live.thinnings = 0;
    gb_stacks.truncated = gb_stacks.overflowed = 0;
    gb_hook_losses = gb_snapshot_ns = 0;
    atomic_store(&gb_sample_ns, 0);
    atomic_store(&gb_sample_cost_ns, 0);
    gb_lock();
    atomic_fetch_add(&gb_epoch, 1);
    gb_unlock();
    started = true;
    started_at_ns = gb_monotonic_ns();
    gb_types_reset();
    gb_windows_begin();
    atomic_store(&gb_sampling, true);
    /* Can this process be watched? And with share 1, watch from this moment on: run_windows() then only looks after the
     * hooks. */
    bool fine = gb_hooks_check() && (window_share < 1.0 || gb_window_open_nopy(0, window_share));
    if (!fine) {
        atomic_store(&gb_sampling, false);
        started = false;
        gb_hooks_remove();
        PyErr_SetString(PyExc_RuntimeError, gb_pause_reason[0] != '\0'
                                                ? gb_pause_reason
                                                : "Another tool changed the allocators just now; start again.");
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
native_stop(PyObject *self, PyObject *args)
{
    (void)self;
    (void)args;
    if (!started)
        Py_RETURN_NONE;
    atomic_store(&gb_sampling, false);
    started = false;
    gb_windows_interrupt();
    gb_hooks_remove();
    PyCodeObject **released = malloc(GB_CODES_MAX * sizeof(*released));
    size_t count = 0;
    gb_lock();
    gb_table_clear_locked();
    gb_stacks_clear_locked(&gb_stacks);
    if (released != NULL)
        count = gb_codes_take_locked(&gb_stacks, released);
    atomic_fetch_add(&gb_epoch, 1);
    gb_unlock();
    for (size_t i = 0; i < count; i++)
        Py_DECREF(released[i]);
    free(released);
    Py_RETURN_NONE;
}

static PyObject *
native_run_windows(PyObject *self, PyObject *arg)
{
    (void)self;
    double seconds = PyFloat_AsDouble(arg);
    if (seconds == -1.0 && PyErr_Occurred())
        return NULL;
    if (!(seconds >= 0.0)) {
        PyErr_SetString(PyExc_ValueError, "run_windows() needs a number of seconds that is not negative.");
        return NULL;
    }
    if (gb_windows_run(seconds) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *
native_interrupt(PyObject *self, PyObject *args)
{
    (void)self;
    (void)args;
    gb_windows_interrupt();
    Py_RETURN_NONE;
}

static PyObject *
native_set_rate(PyObject *self, PyObject *args, PyObject *kwargs)
{
    (void)self;
    static char *names[] = {"interval_bytes", "window_share", NULL};
    PyObject *interval = Py_None, *share = Py_None;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|$OO:set_rate", names, &interval, &share))
        return NULL;
    gb_rate rate = gb_rate_now;
    if (interval != Py_None)
        rate.interval_bytes = PyFloat_AsDouble(interval);
    if (share != Py_None)
        rate.share = PyFloat_AsDouble(share);
    if (PyErr_Occurred() || check_rate(rate.interval_bytes, rate.share, rate.window_ns / 1e6) < 0)
        return NULL;
    bool coarser = rate.interval_bytes > gb_rate_now.interval_bytes;
    gb_rate_now = rate;
    if (coarser && gb_live.slots != NULL) {
        gb_lock();
        gb_table_thin_locked(rate.interval_bytes);
        gb_unlock();
    }
    Py_RETURN_NONE;
}

static PyObject *
native_exclude_thread(PyObject *self, PyObject *args)
{
    (void)self;
    (void)args;
    gb_tls.excluded = true;
    gb_threads_exclude();
    Py_RETURN_NONE;
}

static PyObject *
native_snapshot(PyObject *self, PyObject *args)
{
    (void)self;
    (void)args;
    if (!started)
        Py_RETURN_NONE;
    return gb_snapshot();
}

static PyObject *
native_stack(PyObject *self, PyObject *arg)
{
    (void)self;
    unsigned long node = PyLong_AsUnsignedLong(arg);
    if (node == (unsigned long)-1 && PyErr_Occurred())
        return NULL;
    if (node == GB_NODE_NONE || node == GB_NODE_TRUNCATED || node >= gb_stacks.nodes_used) {
        PyErr_SetObject(PyExc_KeyError, arg);
        return NULL;
    }
    return gb_path_to_python(&gb_stacks, (uint32_t)node);
}

static void
release(PyCodeObject **codes, size_t count)
{
    for (size_t i = 0; i < count; i++)
        Py_DECREF(codes[i]);
}

static PyObject *
native_release_dead(PyObject *self, PyObject *args)
{
    (void)self;
    (void)args;
    /* Few dead are not worth the walk over all samples. */
    static uint32_t codes_before;
    uint32_t held = gb_stacks.codes_used - gb_stacks.codes_released;
    if (!started || held < codes_before + GB_CODES_DEAD_MIN) {
        codes_before = held < codes_before ? held : codes_before;
        return PyLong_FromLong(0);
    }
    PyCodeObject **released = malloc(gb_stacks.codes_used * sizeof(*released));
    uint32_t *live_nodes = calloc(gb_stacks.nodes_used, sizeof(*live_nodes));
    uint8_t *live_codes = calloc(gb_stacks.codes_used, 1);
    size_t count = 0;
    if (released != NULL && live_nodes != NULL && live_codes != NULL) {
        gb_lock();
        count = gb_codes_release_dead_locked(released, live_nodes, live_codes);
        gb_unlock();
        codes_before = held - (uint32_t)count;
        release(released, count);
    } else {
        PyErr_NoMemory();
    }
    free(released);
    free(live_nodes);
    free(live_codes);
    return PyErr_Occurred() ? NULL : PyLong_FromSize_t(count);
}

static PyObject *
native_release_unused(PyObject *self, PyObject *args)
{
    (void)self;
    (void)args;
    if (!started || (gb_stacks.nodes_used < GB_NODES_MAX / 2 && gb_stacks.codes_used < GB_CODES_MAX / 2))
        return PyLong_FromLong(0);
    PyCodeObject **released = malloc(GB_CODES_MAX * sizeof(*released));
    gb_node *scratch = malloc(gb_stacks.nodes_used * sizeof(*scratch));
    uint32_t *map = malloc(gb_stacks.nodes_used * sizeof(*map));
    size_t count = 0, dropped = 0;
    if (released != NULL && scratch != NULL && map != NULL) {
        gb_lock();
        dropped = gb_stacks_compact_locked(released, &count, scratch, map);
        gb_unlock();
        release(released, count);
    } else {
        PyErr_NoMemory();
    }
    free(released);
    free(scratch);
    free(map);
    return PyErr_Occurred() ? NULL : PyLong_FromSize_t(dropped);
}

static PyObject *
native_statistics(PyObject *self, PyObject *args)
{
    (void)self;
    (void)args;
    const char *state = !started || !atomic_load(&gb_sampling) ? "stopped"
                        : gb_pause_reason[0] != '\0'           ? "paused"
                                                               : "running";
    return Py_BuildValue(
        "{s:s,s:s,s:d,s:d,s:K,s:K,s:K,s:K,s:K,s:I,s:I,s:K,s:K,s:I,s:I,s:K,s:K,s:I,s:I,s:I,s:I,s:K,s:K,s:K,s:n,s:K}",
        "state", state, "reason", gb_pause_reason, "interval_bytes", gb_rate_now.interval_bytes, "window_share",
        gb_rate_now.share, "windows", (unsigned long long)gb_windows_opened, "window_open_ns",
        (unsigned long long)gb_windows_open_ns, "elapsed_ns",
        (unsigned long long)(started ? gb_monotonic_ns() - started_at_ns : 0), "window_bytes",
        (unsigned long long)gb_window_bytes(), "samples", (unsigned long long)gb_live.taken, "samples_live",
        (unsigned int)gb_live.live, "samples_live_max", (unsigned int)GB_SAMPLES_MAX, "samples_dropped",
        (unsigned long long)gb_live.dropped, "thinnings", (unsigned long long)gb_live.thinnings, "stacks",
        (unsigned int)gb_stacks.nodes_used, "stacks_max", (unsigned int)GB_NODES_MAX, "stacks_truncated",
        (unsigned long long)gb_stacks.truncated, "stacks_overflowed", (unsigned long long)gb_stacks.overflowed, "codes",
        (unsigned int)(gb_stacks.codes_used - 1 - gb_stacks.codes_released), "codes_max", (unsigned int)GB_CODES_MAX,
        "types", (unsigned int)gb_types_known, "types_max", (unsigned int)GB_TYPES_MAX, "hook_losses",
        (unsigned long long)gb_hook_losses, "sample_ns", (unsigned long long)atomic_load(&gb_sample_cost_ns),
        "snapshot_ns", (unsigned long long)gb_snapshot_ns, "tables_bytes",
        (Py_ssize_t)(TABLES_BYTES + GB_PATH_CACHE_BYTES + GB_FILTER_SLOTS + 2 * GB_TYPE_SLOTS * sizeof(gb_type_entry)),
        "watched_ns", (unsigned long long)gb_windows_watched_ns);
}

static PyMethodDef methods[] = {
    {"refusal", native_refusal, METH_NOARGS, NULL},
    {"start", (PyCFunction)(void (*)(void))native_start, METH_VARARGS | METH_KEYWORDS, NULL},
    {"stop", native_stop, METH_NOARGS, NULL},
    {"run_windows", native_run_windows, METH_O, NULL},
    {"interrupt", native_interrupt, METH_NOARGS, NULL},
    {"set_rate", (PyCFunction)(void (*)(void))native_set_rate, METH_VARARGS | METH_KEYWORDS, NULL},
    {"exclude_thread", native_exclude_thread, METH_NOARGS, NULL},
    {"snapshot", native_snapshot, METH_NOARGS, NULL},
    {"stack", native_stack, METH_O, NULL},
    {"release_dead", native_release_dead, METH_NOARGS, NULL},
    {"release_unused", native_release_unused, METH_NOARGS, NULL},
    {"statistics", native_statistics, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static int
add_everything(PyObject *module)
{
    PyMethodDef *const tables[] = {gb_await_methods,  gb_call_methods,   gb_dump_methods,
                                   gb_label_methods,  gb_step_methods,   gb_watchdog_methods,
                                   gb_thread_methods, gb_memory_methods, gb_capture_methods};
    for (size_t i = 0; i < sizeof(tables) / sizeof(*tables); i++) {
        if (PyModule_AddFunctions(module, tables[i]) < 0)
            return -1;
    }
    return gb_operations_add_types(module) < 0 || gb_calls_add_types(module) < 0 ? -1 : gb_spans_add_types(module);
}

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, (void *)(uintptr_t)add_everything},
#if PY_VERSION_HEX >= 0x030C0000
    /* Allocators belong to the process, not to an interpreter. */
    {Py_mod_multiple_interpreters, Py_MOD_MULTIPLE_INTERPRETERS_NOT_SUPPORTED},
#endif
    {0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "glassbottom._native",
    .m_doc = "The C core. See _native.pyi.",
    .m_methods = methods,
    .m_slots = slots,
};

PyMODINIT_FUNC
PyInit__native(void)
{
    return PyModuleDef_Init(&definition);
}
