/* snapshot.c: reads the tables out, aggregated by call path and type, with variances.
 *
 * Variance. Sampling has two stages: a moment is watched with probability s (its window is open), and in it a block is
 * hit with probability p. With w = 1 / (s p), T_j the sum of w * size over the samples of window j, the unbiased
 * estimate of the variance of sum(w * size) is
 *
 *     sum over windows j of (1 - s) T_j^2   +   sum over samples of s (1 - p) (w * size)^2
 *
 * (two-stage Poisson sampling: Saerndal, Swensson & Wretman, Model Assisted Survey Sampling, 1992, 4.3). Windows, not
 * samples, are the independent units: without the first term, a burst caught by one window would look certain. What is
 * watched all the time has s = 1, and only the second term remains.
 *
 * With the GIL and the lock the live samples are copied. Their blocks are read, and the copy is sorted and summed,
 * without either: what was freed meanwhile is recognised when its type is to be remembered.
 */
#include "core.h"

#include <stdlib.h>
#include <string.h>

/* How many blocks one snapshot looks into; the next one goes on where this one stopped. */
#define TYPES_RESOLVED_MAX 8192u

uint64_t gb_snapshot_ns;
double gb_large_bytes, gb_large_variance;
bool gb_large_known;

typedef struct {
    uint64_t key;
    uint32_t row;
} keyed;

typedef struct {
    double live_bytes, live_bytes_variance, live_objects, live_objects_variance;
    double alloc_bytes, alloc_objects;
    double birth_sum;
    int64_t birth_oldest_ms;
    uint32_t samples, minutes;
    bool changed, listed;
} path_row;

typedef struct {
    uint32_t node, type, samples;
    double live_bytes, live_objects;
} type_row;

typedef struct {
    gb_sample *samples;
    keyed *keys;
    path_row *paths;
    type_row *types;
    size_t sample_count, path_count, type_count, listed_count;
    double live_bytes, live_bytes_variance;
    double large_bytes, large_variance;
} reading;

static int
by_key(const void *a, const void *b)
{
    uint64_t x = ((const keyed *)a)->key, y = ((const keyed *)b)->key;
    return x < y ? -1 : x > y;
}

static void
copy_locked(reading *r, size_t room)
{
    for (uint32_t i = 0; i < GB_TABLE_SLOTS && r->sample_count < room; i++) {
        if (gb_live.slots[i].ptr != NULL && gb_live.slots[i].node < r->path_count)
            r->samples[r->sample_count++] = gb_live.slots[i];
    }
    for (size_t n = 0; n < r->path_count; n++) {
        const gb_node *node = &gb_stacks.nodes[n];
        r->paths[n].alloc_bytes = node->alloc_bytes;
        r->paths[n].alloc_objects = node->alloc_objects;
    }
}

/* Looks into some of the copied samples' blocks, and remembers what is found where the sample is still the same. */
static int
resolve_types(reading *r)
{
    static size_t next;
    size_t count = r->sample_count < TYPES_RESOLVED_MAX ? r->sample_count : TYPES_RESOLVED_MAX;
    if (count == 0)
        return 0;
    const void **blocks = malloc(count * sizeof(*blocks));
    size_t *sizes = malloc(count * sizeof(*sizes));
    char (*heads)[GB_HEAD_BYTES] = malloc(count * GB_HEAD_BYTES);
    bool *readable = malloc(count * sizeof(*readable));
    int status = -1;
    if (blocks == NULL || sizes == NULL || heads == NULL || readable == NULL) {
        PyErr_NoMemory();
        goto done;
    }
    size_t first = r->sample_count > count ? next % r->sample_count : 0;
    next = first + count;
    for (size_t k = 0; k < count; k++) {
        const gb_sample *s = &r->samples[(first + k) % r->sample_count];
        blocks[k] = s->ptr;
        sizes[k] = s->size;
    }
    Py_BEGIN_ALLOW_THREADS
    gb_read_heads(blocks, sizes, count, heads, readable);
    Py_END_ALLOW_THREADS
    for (size_t k = 0; k < count; k++) {
        gb_sample *s = &r->samples[(first + k) % r->sample_count];
        uint32_t type = readable[k] ? gb_type_of_head(heads[k], s->size) : 0;
        gb_types_missed |= type == 0 && s->domain == GB_DOMAIN_OBJ;
        if (type == s->type)
            continue;
        gb_lock();
        gb_sample *live = gb_table_find_locked(s->ptr);
        if (live != NULL && live->birth_ms == s->birth_ms && live->node == s->node && live->size == s->size) {
            live->type = s->type = type;
            gb_stacks.nodes[s->node].dirty = 1;
        }
        gb_unlock();
    }
    status = 0;
done:
    free(blocks);
    free(sizes);
    free(heads);
    free(readable);
    return status;
}

/* What glibc takes for a block: a word before it, in steps of 16, and never less than 32. */
static double
chunk_bytes(size_t size)
{
    size_t chunk = (size + sizeof(size_t) + 15) & ~(size_t)15;
    return chunk < 32 ? 32.0 : (double)chunk;
}

/* What Python has from malloc. Of small blocks that are only those that were sampled, each as large as hooks.c makes it
 * to get it from there. */
static void
add_to_malloc(reading *r, const gb_sample *s, double weight, double within)
{
    if (s->domain != GB_DOMAIN_RAW && s->size <= GB_SMALL_BYTES_MAX) {
        r->large_bytes += chunk_bytes(GB_SMALL_BYTES_MAX + 1);
        return;
    }
    double chunk = weight * chunk_bytes(s->size);
    r->large_bytes += chunk;
    r->large_variance += within * chunk * chunk;
}

static void
add_samples(reading *r)
{
    for (size_t i = 0; i < r->sample_count; i++) {
        const gb_sample *s = &r->samples[i];
        path_row *p = &r->paths[s->node];
        double weight = gb_weight_nopy(s);
        double bytes = weight * (double)s->size;
        double within = (double)s->share * (1.0 - gb_hit_probability_nopy((double)s->size, s->interval_bytes));
        p->live_bytes += bytes;
        p->live_objects += weight;
        p->live_bytes_variance += within * bytes * bytes;
        p->live_objects_variance += within * weight * weight;
        r->live_bytes += bytes;
        r->live_bytes_variance += within * bytes * bytes;
        add_to_malloc(r, s, weight, within);
        p->birth_sum += bytes * (double)s->birth_ms;
        if (p->samples == 0 || s->birth_ms < p->birth_oldest_ms)
            p->birth_oldest_ms = s->birth_ms;
        p->samples++;
    }
}

/* The first term of the variance: per path when `by_path`, else for the whole heap. */
static void
add_windows(reading *r, bool by_path)
{
    size_t n = 0;
    for (size_t i = 0; i < r->sample_count; i++) {
        const gb_sample *s = &r->samples[i];
        if (s->window != 0)
            r->keys[n++] = (keyed){(by_path ? (uint64_t)s->node << 32 : 0) | s->window, (uint32_t)i};
    }
    qsort(r->keys, n, sizeof(keyed), by_key);
    for (size_t i = 0; i < n;) {
        uint64_t key = r->keys[i].key;
        double bytes = 0.0, objects = 0.0, unseen = 0.0;
        const gb_sample *s = NULL;
        for (; i < n && r->keys[i].key == key; i++) {
            s = &r->samples[r->keys[i].row];
            double weight = gb_weight_nopy(s);
            bytes += weight * (double)s->size;
            objects += weight;
            unseen = 1.0 - (double)s->share;
        }
        if (by_path) {
            r->paths[s->node].live_bytes_variance += unseen * bytes * bytes;
            r->paths[s->node].live_objects_variance += unseen * objects * objects;
        } else {
            r->live_bytes_variance += unseen * bytes * bytes;
        }
    }
}

static void
count_minutes(reading *r)
{
    for (size_t i = 0; i < r->sample_count; i++) {
        const gb_sample *s = &r->samples[i];
        r->keys[i] = (keyed){(uint64_t)s->node << 32 | (uint32_t)(s->birth_ms / 60000), (uint32_t)i};
    }
    qsort(r->keys, r->sample_count, sizeof(keyed), by_key);
    for (size_t i = 0; i < r->sample_count; i++) {
        if (i == 0 || r->keys[i].key != r->keys[i - 1].key)
            r->paths[r->samples[r->keys[i].row].node].minutes++;
    }
}

static void
sum_types(reading *r)
{
    for (size_t i = 0; i < r->sample_count; i++) {
        const gb_sample *s = &r->samples[i];
        uint32_t type = s->type != 0 ? s->type - 1 : gb_label_index(s->domain);
        r->keys[i] = (keyed){(uint64_t)s->node << 32 | type, (uint32_t)i};
    }
    qsort(r->keys, r->sample_count, sizeof(keyed), by_key);
    for (size_t i = 0; i < r->sample_count; i++) {
        const gb_sample *s = &r->samples[r->keys[i].row];
        if (i == 0 || r->keys[i].key != r->keys[i - 1].key)
            r->types[r->type_count++] = (type_row){.node = s->node, .type = (uint32_t)r->keys[i].key};
        type_row *t = &r->types[r->type_count - 1];
        double weight = gb_weight_nopy(s);
        t->live_bytes += weight * (double)s->size;
        t->live_objects += weight;
        t->samples++;
    }
}

static void
tell_locked(reading *r)
{
    for (size_t n = 0; n < r->path_count; n++) {
        gb_node *node = &gb_stacks.nodes[n];
        path_row *p = &r->paths[n];
        p->listed = p->samples != 0 || p->alloc_objects != 0.0;
        if (!p->listed)
            continue;
        r->listed_count++;
        p->changed =
            node->dirty != 0 || p->live_bytes != node->told_live_bytes || p->alloc_bytes != node->told_alloc_bytes;
        node->told_live_bytes = p->live_bytes;
        node->told_alloc_bytes = p->alloc_bytes;
        node->dirty = 0;
    }
}

static int
put(PyObject *dict, const char *name, PyObject *value)
{
    if (value == NULL)
        return -1;
    int status = PyDict_SetItemString(dict, name, value);
    Py_DECREF(value);
    return status;
}

/* A column of `listed` paths (or of types) as bytes. */
#define COLUMN(count, total, table, type, condition, expression)                                                       \
    __extension__({                                                                                                    \
        PyObject *bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)((count) * sizeof(type)));                       \
        if (bytes != NULL) {                                                                                           \
            char *out = PyBytes_AS_STRING(bytes);                                                                      \
            for (size_t i = 0; i < (total); i++) {                                                                     \
                if (condition) {                                                                                       \
                    type value = (type)(expression);                                                                   \
                    memcpy(out, &value, sizeof value);                                                                 \
                    out += sizeof value;                                                                               \
                }                                                                                                      \
            }                                                                                                          \
        }                                                                                                              \
        bytes;                                                                                                         \
    })
#define PATHS(type, expression) COLUMN(r->listed_count, r->path_count, paths, type, r->paths[i].listed, expression)
#define TYPES(type, expression) COLUMN(r->type_count, r->type_count, types, type, true, r->types[i].expression)

static PyObject *
to_dict(const reading *r, int64_t at_ns, uint32_t epoch)
{
    PyObject *d = PyDict_New();
    PyObject *names = gb_type_names();
    if (d == NULL || put(d, "epoch", PyLong_FromUnsignedLong(epoch)) < 0
        || put(d, "at_ns", PyLong_FromLongLong(at_ns)) < 0
        || put(d, "interval_bytes", PyFloat_FromDouble(gb_rate_now.interval_bytes)) < 0
        || put(d, "window_share", PyFloat_FromDouble(gb_rate_now.share)) < 0
        || put(d, "live_bytes", PyFloat_FromDouble(r->live_bytes)) < 0
        || put(d, "live_bytes_variance", PyFloat_FromDouble(r->live_bytes_variance)) < 0
        || put(d, "node", PATHS(uint32_t, i)) < 0 || put(d, "changed", PATHS(uint8_t, r->paths[i].changed)) < 0
        || put(d, "live_bytes_by_node", PATHS(double, r->paths[i].live_bytes)) < 0
        || put(d, "live_bytes_variance_by_node", PATHS(double, r->paths[i].live_bytes_variance)) < 0
        || put(d, "live_objects_by_node", PATHS(double, r->paths[i].live_objects)) < 0
        || put(d, "live_objects_variance_by_node", PATHS(double, r->paths[i].live_objects_variance)) < 0
        || put(d, "alloc_bytes_by_node", PATHS(double, r->paths[i].alloc_bytes)) < 0
        || put(d, "alloc_objects_by_node", PATHS(double, r->paths[i].alloc_objects)) < 0
        || put(d, "samples_by_node", PATHS(uint32_t, r->paths[i].samples)) < 0
        || put(d, "birth_oldest_ms", PATHS(int64_t, r->paths[i].birth_oldest_ms)) < 0
        || put(d, "birth_mean_ms",
               PATHS(int64_t, r->paths[i].samples == 0 ? 0.0 : r->paths[i].birth_sum / r->paths[i].live_bytes))
               < 0
        || put(d, "birth_minutes", PATHS(uint32_t, r->paths[i].minutes)) < 0
        || put(d, "type_node", TYPES(uint32_t, node)) < 0 || put(d, "type_index", TYPES(uint32_t, type)) < 0
        || put(d, "type_live_bytes", TYPES(double, live_bytes)) < 0
        || put(d, "type_live_objects", TYPES(double, live_objects)) < 0
        || put(d, "type_samples", TYPES(uint32_t, samples)) < 0
        || put(d, "type_names", PyList_GetSlice(names, 0, PyList_GET_SIZE(names))) < 0) {
        Py_XDECREF(d);
        return NULL;
    }
    return d;
}

static bool reading_now;

/* The thread that was reading is not in the child. */
void
gb_snapshot_after_fork_child(void)
{
    reading_now = false;
    gb_large_known = false;
}

PyObject *
gb_snapshot(void)
{
    if (reading_now) {
        PyErr_SetString(PyExc_RuntimeError, "A snapshot is being read in another thread.");
        return NULL;
    }
    uint64_t t0 = gb_monotonic_ns();
    gb_raw_check(); /* a hook lost since the last look means frees that nobody saw */
    reading r = {.path_count = gb_stacks.nodes_used};
    /* Nothing is added without the GIL but a block whose realloc failed, one a thread. */
    size_t room = gb_live.live + 64;
    r.samples = malloc(room * sizeof(gb_sample));
    r.keys = malloc(room * sizeof(keyed));
    r.types = malloc(room * sizeof(type_row));
    r.paths = calloc(r.path_count, sizeof(path_row));
    PyObject *result = NULL;
    if (r.samples == NULL || r.keys == NULL || r.types == NULL || r.paths == NULL) {
        PyErr_NoMemory();
        goto done;
    }
    int64_t at_ns = gb_realtime_ns();
    uint32_t epoch = gb_epoch;
    gb_lock();
    copy_locked(&r, room);
    gb_unlock();
    gb_snapshot_ns += gb_monotonic_ns() - t0;
    reading_now = true;
    if (resolve_types(&r) < 0) {
        reading_now = false;
        goto done;
    }

    Py_BEGIN_ALLOW_THREADS
    add_samples(&r);
    add_windows(&r, true);
    add_windows(&r, false);
    count_minutes(&r);
    sum_types(&r);
    Py_END_ALLOW_THREADS

    t0 = gb_monotonic_ns();
    reading_now = false;
    if (epoch
        != gb_epoch) { /* the tables restarted meanwhile: the copy is of the past, and its node ids mean nothing */
        PyErr_SetString(PyExc_RuntimeError, "The sampler restarted while the snapshot was read; read it again.");
        goto done;
    }
    gb_lock();
    tell_locked(&r);
    gb_unlock();
    gb_large_bytes = r.large_bytes;
    gb_large_variance = r.large_variance;
    gb_large_known = true;
    result = to_dict(&r, at_ns, epoch);
    gb_snapshot_ns += gb_monotonic_ns() - t0;
done:
    free(r.samples);
    free(r.keys);
    free(r.types);
    free(r.paths);
    return result;
}
