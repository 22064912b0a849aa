/* call_operations.c: the functions and blocks that calls.c measures: where each is recorded, and when it is asked for its
 * CPU time.
 *
 * CPU time costs a system call, more than everything else about a call: what runs long is asked at every call, what is
 * short at one in eight, at random, and the table counts for how many it is known.
 */
#include "calls.h"

#include <string.h>
#include <sys/resource.h>

#define CPU_ALWAYS_NS 50000.0 /* from this length on asking costs 3 % at most */
#define CPU_GAP 15u           /* shorter ones pass 0 to so many calls from one that is asked to the next */

static const char *const STATUS_NAMES[GB_CALL_STATUSES] = {"ok", "error", "cancelled"};

PyObject *gb_call_table;
uint64_t gb_call_generation;
PyTypeObject *gb_operation_type;
static uint64_t rng = UINT64_C(0x9E3779B97F4A7C15);

/* ---- an operation: one function or block -------------------------------------------------------------------------- */

static PyObject *
operation_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    (void)kwargs;
    PyObject *new_slot;
    if (!PyArg_ParseTuple(args, "O:Operation", &new_slot))
        return NULL;
    gb_call_operation *o = (gb_call_operation *)type->tp_alloc(type, 0);
    if (o != NULL)
        o->new_slot = Py_NewRef(new_slot);
    return (PyObject *)o;
}

static int
operation_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(((gb_call_operation *)self)->new_slot);
    return 0;
}

static int
operation_clear(PyObject *self)
{
    Py_CLEAR(((gb_call_operation *)self)->new_slot);
    return 0;
}

void
gb_call_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    /* Calls that never end hang on one another, as many as there are. */
    Py_TRASHCAN_BEGIN(self, gb_call_dealloc);
    type->tp_clear(self);
    type->tp_free(self);
    Py_DECREF(type);
    Py_TRASHCAN_END;
}

int64_t
gb_call_slot(gb_call_operation *o, int status)
{
    if (o->generation != gb_call_generation) {
        o->generation = gb_call_generation;
        memset(o->slots, 0xff, sizeof(o->slots));
    }
    if (o->slots[status] >= 0 || o->new_slot == NULL)
        return o->slots[status];
    uint64_t asked = gb_call_generation;
    PyObject *made = PyObject_CallFunction(o->new_slot, "s", STATUS_NAMES[status]);
    int64_t slot = made == NULL ? -1 : PyLong_AsLongLong(made);
    Py_XDECREF(made);
    if (PyErr_Occurred()) { /* such as at the limit of recursion: asked again next time */
        if (!PyErr_ExceptionMatches(PyExc_Exception))
            return -1; /* KeyboardInterrupt, SystemExit: of a signal handler of the application's */
        PyErr_Clear();
    }
    if (asked == gb_call_generation && o->generation == gb_call_generation)
        o->slots[status] = slot;
    return slot;
}

/* ---- CPU time ----------------------------------------------------------------------------------------------------- */

gb_cpu_time
gb_cpu_now(void)
{
    gb_cpu_time t = {0, 0, false};
#ifdef RUSAGE_THREAD
    struct rusage usage;
    if (getrusage(RUSAGE_THREAD, &usage) == 0) {
        t.user_ns = (int64_t)usage.ru_utime.tv_sec * 1000000000 + (int64_t)usage.ru_utime.tv_usec * 1000;
        t.system_ns = (int64_t)usage.ru_stime.tv_sec * 1000000000 + (int64_t)usage.ru_stime.tv_usec * 1000;
        t.known = true;
    }
#endif
    return t;
}

bool
gb_call_asks_cpu(gb_call_operation *o)
{
    if (o->unread == 0)
        return true;
    o->unread--;
    return false;
}

/* When to ask next: by the mean of many, so that which call is asked does not depend on how long this one took. */
void
gb_call_asked_cpu(gb_call_operation *o, double piece_ns)
{
    o->mean_ns = o->mean_ns == 0.0 ? piece_ns : o->mean_ns + (piece_ns - o->mean_ns) / 8.0;
    o->unread = o->mean_ns >= CPU_ALWAYS_NS ? 0 : (uint32_t)(gb_random_nopy(&rng) >> 32) & CPU_GAP;
}

/* ---- the module --------------------------------------------------------------------------------------------------- */

static PyType_Slot operation_slots[] = {
    {Py_tp_doc, (void *)(uintptr_t)"One function or block that is measured. See _native.pyi."},
    {Py_tp_new, (void *)(uintptr_t)operation_new},
    {Py_tp_dealloc, (void *)(uintptr_t)gb_call_dealloc},
    {Py_tp_traverse, (void *)(uintptr_t)operation_traverse},
    {Py_tp_clear, (void *)(uintptr_t)operation_clear},
    {0, NULL},
};

static PyType_Spec operation_spec = {
    .name = "glassbottom._native.Operation",
    .basicsize = sizeof(gb_call_operation),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = operation_slots,
};

int
gb_call_operations_init(PyObject *module)
{
    if (gb_operation_type == NULL)
        gb_operation_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &operation_spec, NULL);
    return gb_operation_type == NULL ? -1 : PyModule_AddType(module, gb_operation_type);
}
