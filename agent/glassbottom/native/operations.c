/* operations.c: histograms of durations, recorded in 60 ns from ordinary Python.
 *
 * OpenTelemetry's exponential histogram at scale 4: bucket i holds (base^i, base^(i+1)] seconds with base = 2^(1/16).
 * The bucket is found without a logarithm and without a branch: the exponent is a count of leading zeros, and the
 * sixteenth of the octave is found by the next eight bits in a table, and one comparison. Everything happens under the
 * GIL, so nothing is lost between threads.
 */
#include "core.h"

#include <stdlib.h>
#include <string.h>

#define SLOTS_MAX 65536

/* ---- buckets --------------------------------------------------------------------------------------------------- */

/* The upper bounds of buckets are 1e9 * 2^(k / 16) ns; those within one factor of two of nanoseconds, from 2^29.9 on. */
static double bounds[GB_HISTOGRAM_BUCKETS];
static uint16_t first_of_octave[64]; /* the bucket of 2^e ns */
/* Octaves of nanoseconds are cut alike: how many buckets above its first one each 256th of an octave begins. A bucket
 * is at least eight of these wide, so at most one bound lies within one, and one comparison settles it. */
static uint8_t above_first[256];

static void
make_bounds(void)
{
    static const double SIXTEENTH = 1.0442737824274138403; /* 2^(1/16) */
    double octave = 1.0;                                   /* 2^(whole part), seconds */
    int low = GB_HISTOGRAM_OFFSET / 16;
    for (int e = 0; e > low; e--)
        octave /= 2.0;
    for (unsigned k = 0; k < GB_HISTOGRAM_BUCKETS; k += 16, octave *= 2.0) {
        double factor = 1.0;
        for (unsigned i = 0; i < 16; i++) {
            factor *= SIXTEENTH;
            bounds[k + i] = 1e9 * octave * (i == 15 ? 2.0 : factor);
        }
    }
    for (unsigned e = 0; e < 64; e++) {
        double value = (double)(UINT64_C(1) << e);
        unsigned k = 0;
        while (k < GB_HISTOGRAM_BUCKETS - 1 && bounds[k] < value)
            k++;
        first_of_octave[e] = (uint16_t)k;
    }
    /* From an octave that lies well within the buckets. */
    for (unsigned i = 0; i < 256; i++) {
        double value = (double)((UINT64_C(256) + i) << 12);
        unsigned k = first_of_octave[20];
        while (bounds[k] < value)
            k++;
        above_first[i] = (uint8_t)(k - first_of_octave[20]);
    }
}

unsigned
gb_bucket_nopy(uint64_t ns)
{
    if (ns == 0)
        ns = 1;
    unsigned zeros = (unsigned)__builtin_clzll(ns);
    unsigned k = first_of_octave[63 - zeros] + above_first[(ns << zeros) >> 55 & 0xFF];
    if (k >= GB_HISTOGRAM_BUCKETS - 1)
        return GB_HISTOGRAM_BUCKETS - 1;
    k += bounds[k] < (double)ns;
    return k;
}

int
gb_histogram_to_python(const gb_histogram *h, int *offset, PyObject **counts)
{
    unsigned first = 0, end = GB_HISTOGRAM_BUCKETS;
    while (first < end && h->counts[first] == 0)
        first++;
    while (end > first && h->counts[end - 1] == 0)
        end--;
    *offset = GB_HISTOGRAM_OFFSET + (int)first;
    *counts =
        PyBytes_FromStringAndSize((const char *)&h->counts[first], (Py_ssize_t)((end - first) * sizeof(uint32_t)));
    return *counts == NULL ? -1 : 0;
}

/* ---- the table ------------------------------------------------------------------------------------------------- */

typedef struct {
    uint64_t count, duration_ns, self_ns, cpu_user_ns, cpu_system_ns, cpu_count, busy_ns, min_ns, max_ns;
    double alloc_bytes;
    gb_histogram histogram;
} operation;

typedef struct {
    PyObject_HEAD operation **slots;
    Py_ssize_t used, max;
} operation_table;

static PyObject *
table_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"slots_max", NULL};
    Py_ssize_t max = 1024;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|n:OperationTable", keywords, &max))
        return NULL;
    if (max < 1 || max > SLOTS_MAX) {
        PyErr_Format(PyExc_ValueError, "slots_max must be between 1 and %d.", SLOTS_MAX);
        return NULL;
    }
    operation_table *t = (operation_table *)type->tp_alloc(type, 0);
    if (t == NULL)
        return NULL;
    t->max = max;
    t->slots = calloc((size_t)max, sizeof(*t->slots));
    if (t->slots == NULL) {
        Py_DECREF(t);
        return PyErr_NoMemory();
    }
    return (PyObject *)t;
}

static void
table_dealloc(PyObject *self)
{
    operation_table *t = (operation_table *)self;
    PyTypeObject *type = Py_TYPE(self);
    for (Py_ssize_t i = 0; t->slots != NULL && i < t->used; i++)
        free(t->slots[i]);
    free(t->slots);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyObject *
table_add(PyObject *self, PyObject *args)
{
    (void)args;
    operation_table *t = (operation_table *)self;
    if (t->used == t->max)
        return PyLong_FromLong(-1);
    operation *o = calloc(1, sizeof(*o));
    if (o == NULL)
        return PyErr_NoMemory();
    t->slots[t->used] = o;
    return PyLong_FromSsize_t(t->used++);
}

static int
as_ns(PyObject *value, int64_t *out)
{
    *out = PyLong_AsLongLong(value);
    return *out == -1 && PyErr_Occurred() ? -1 : 0;
}

static uint64_t
not_negative(int64_t value)
{
    return value < 0 ? 0 : (uint64_t)value;
}

void
gb_operation_record(PyObject *table, int64_t slot, int64_t duration_ns, int64_t self_ns, int64_t cpu_user_ns,
                    int64_t cpu_system_ns, int64_t busy_ns, double alloc_bytes)
{
    operation_table *t = (operation_table *)table;
    if (slot < 0 || slot >= t->used)
        return;
    operation *o = t->slots[slot];
    /* Clocks may step back by a little between processors; a duration is never negative. */
    uint64_t duration = duration_ns < 1 ? 1 : (uint64_t)duration_ns;
    o->min_ns = o->count == 0 || duration < o->min_ns ? duration : o->min_ns;
    o->max_ns = duration > o->max_ns ? duration : o->max_ns;
    o->count++;
    o->duration_ns += duration;
    o->self_ns += not_negative(self_ns);
    if (cpu_user_ns >= 0) {
        o->cpu_user_ns += (uint64_t)cpu_user_ns;
        o->cpu_system_ns += not_negative(cpu_system_ns);
        o->cpu_count++;
    }
    o->busy_ns += not_negative(busy_ns);
    if (alloc_bytes > 0.0)
        o->alloc_bytes += alloc_bytes;
    o->histogram.counts[gb_bucket_nopy(duration)]++;
}

static PyObject *
table_record(PyObject *self, PyObject *const *args, Py_ssize_t n)
{
    if (n < 2 || n > 7) {
        PyErr_SetString(PyExc_TypeError, "record() takes 2 to 7 arguments.");
        return NULL;
    }
    int64_t values[6] = {0, 0, 0, -1, -1, 0}; /* slot, duration, self, user, system, busy */
    for (Py_ssize_t i = 0; i < n && i < 6; i++) {
        if (as_ns(args[i], &values[i]) < 0)
            return NULL;
    }
    double alloc_bytes = n < 7 ? 0.0 : PyFloat_AsDouble(args[6]);
    if (alloc_bytes == -1.0 && PyErr_Occurred())
        return NULL;
    gb_operation_record(self, values[0], values[1], values[2], values[3], values[4], values[5], alloc_bytes);
    Py_RETURN_NONE;
}

static PyObject *
table_take(PyObject *self, PyObject *args)
{
    (void)args;
    operation_table *t = (operation_table *)self;
    PyObject *rows = PyList_New(0);
    for (Py_ssize_t i = 0; rows != NULL && i < t->used; i++) {
        if (t->slots[i]->count == 0)
            continue;
        /* Taken first: making the row may collect on 3.11, and finalizers may record. */
        operation taken = *t->slots[i], *o = &taken;
        memset(t->slots[i], 0, sizeof(taken));
        int offset;
        PyObject *counts;
        PyObject *row = NULL;
        if (gb_histogram_to_python(&o->histogram, &offset, &counts) == 0)
            row = Py_BuildValue("(nKKKKKKKdKKiN)", i, (unsigned long long)o->count, (unsigned long long)o->duration_ns,
                                (unsigned long long)o->self_ns, (unsigned long long)o->cpu_user_ns,
                                (unsigned long long)o->cpu_system_ns, (unsigned long long)o->cpu_count,
                                (unsigned long long)o->busy_ns, o->alloc_bytes, (unsigned long long)o->min_ns,
                                (unsigned long long)o->max_ns, offset, counts);
        if (row == NULL || PyList_Append(rows, row) < 0)
            Py_CLEAR(rows);
        Py_XDECREF(row);
    }
    return rows;
}

static PyMethodDef table_methods[] = {
    {"add", table_add, METH_NOARGS, NULL},
    {"record", (PyCFunction)(void (*)(void))table_record, METH_FASTCALL, NULL},
    {"take", table_take, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot table_slots[] = {
    {Py_tp_doc, (void *)(uintptr_t)"Histograms of durations by slot. See _native.pyi."},
    {Py_tp_new, (void *)(uintptr_t)table_new},
    {Py_tp_dealloc, (void *)(uintptr_t)table_dealloc},
    {Py_tp_methods, table_methods},
    {0, NULL},
};

static PyType_Spec table_spec = {
    .name = "glassbottom._native.OperationTable",
    .basicsize = sizeof(operation_table),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = table_slots,
};

static PyObject *table_type; /* of the latest import */

bool
gb_operations_check(PyObject *object)
{
    return (PyObject *)Py_TYPE(object) == table_type;
}

int
gb_operations_add_types(PyObject *module)
{
    make_bounds();
    PyObject *type = PyType_FromModuleAndSpec(module, &table_spec, NULL);
    if (type == NULL)
        return -1;
    Py_XSETREF(table_type, Py_NewRef(type));
    int status = PyModule_AddType(module, (PyTypeObject *)type);
    Py_DECREF(type);
    return status;
}
