/* calls.c: what a call under `glassbottom.profile` took: its clocks, its caller, its pieces.
 *
 * The wrapper around a function is Python (_profile.py), because it must be a function to whoever looks. What it does
 * before and after is here, because it happens at every call.
 *
 * Who calls whom is kept per context, so it is right for threads, tasks and greenlets: a context variable holds a cell,
 * and the cell the innermost call. Setting a variable takes as long as all the rest, so it is set once in a context and
 * the cell is written to from then on. A copied context brings its original's cell along; the cell knows whose it is,
 * and the copy gets one of its own.
 *
 * Everything is under the GIL. Nothing of ours raises into the application: a call that cannot be measured is not.
 */
#include "calls.h"

#include <math.h>
#include <string.h>

static PyTypeObject *cell_type;
static PyObject *variable; /* context variable: the cell */

/* ---- a call that has begun ---------------------------------------------------------------------------------------- */

/* Of one context. */
typedef struct gb_call_cell {
    PyObject_HEAD const void *context; /* whose; compared, never followed: it may be gone */
    gb_call *top;                      /* the innermost call that has begun and not ended */
} cell;

static double
allocated_now(void)
{
    if (!atomic_load_explicit(&gb_sampling, memory_order_relaxed))
        return NAN;
    return (double)(gb_tls.raw_drawn - gb_tls.raw_left) + gb_tls.small_sampled;
}

static int
cell_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(((cell *)self)->top);
    return 0;
}

static int
cell_clear(PyObject *self)
{
    Py_CLEAR(((cell *)self)->top);
    return 0;
}

/* This context's cell, a new reference; NULL without an exception when there can be none. */
static cell *
this_cell(void)
{
    PyObject *found = NULL;
    if (PyContextVar_Get(variable, NULL, &found) < 0)
        goto fail;
    if (found != NULL && ((cell *)found)->context == PyThreadState_Get()->context)
        return (cell *)found;
    Py_XDECREF(found);
    found = cell_type->tp_alloc(cell_type, 0);
    PyObject *token = found == NULL ? NULL : PyContextVar_Set(variable, found);
    if (token == NULL) {
        Py_XDECREF(found);
        goto fail;
    }
    Py_DECREF(token);
    ((cell *)found)->context = PyThreadState_Get()->context;
    return (cell *)found;
fail:
    PyErr_Clear();
    return NULL;
}

gb_call *
gb_call_innermost(void)
{
    cell *here = this_cell();
    gb_call *top = here == NULL ? NULL : (gb_call *)Py_XNewRef(here->top);
    Py_XDECREF(here);
    return top;
}

/* It is on top, unless a block was opened and not closed meanwhile, as in a generator. */
void
gb_call_take_out(gb_call *c)
{
    if (c->cell == NULL)
        return;
    gb_call **at = &c->cell->top;
    while (*at != NULL && *at != c)
        at = &(*at)->parent;
    if (*at == NULL)
        return;
    *at = (gb_call *)Py_XNewRef(c->parent);
    Py_DECREF(c); /* the caller holds another */
}

void
gb_call_told(gb_call *parent, int64_t duration_ns)
{
    if (parent != NULL)
        parent->children_ns += duration_ns;
}

void
gb_call_enter(gb_call *c)
{
    cell *here = this_cell();
    Py_XSETREF(c->cell, here);
    Py_XSETREF(c->parent, here == NULL ? NULL : (gb_call *)Py_XNewRef(here->top));
    if (here != NULL)
        Py_XSETREF(here->top, (gb_call *)Py_NewRef(c));
    c->running = true;
    c->cpu.known = false;
    if (c->asks)
        c->cpu = gb_cpu_now();
    c->allocated -= allocated_now();
    c->started_ns = (int64_t)gb_monotonic_ns();
}

int64_t
gb_call_leave(gb_call *c)
{
    int64_t piece_ns = (int64_t)gb_monotonic_ns() - c->started_ns;
    c->allocated += allocated_now();
    c->busy_ns += piece_ns;
    if (c->cpu.known) {
        gb_cpu_time now = gb_cpu_now();
        c->user_ns += now.user_ns - c->cpu.user_ns;
        c->system_ns += now.system_ns - c->cpu.system_ns;
    }
    c->pieces++;
    c->running = false;
    gb_call_take_out(c);
    return piece_ns;
}

int64_t
gb_call_leave_raising(gb_call *c)
{
    PyObject *type, *value, *trace;
    PyErr_Fetch(&type, &value, &trace);
    int64_t piece_ns = gb_call_leave(c);
    PyErr_Restore(type, value, trace);
    return piece_ns;
}

int
gb_call_record(gb_call *c, int status, int64_t duration_ns, int64_t busy_ns)
{
    Py_CLEAR(c->parent);
    Py_CLEAR(c->first_parent);
    if (c->recorded || c->operation == NULL)
        return 0;
    c->recorded = true;
    if (c->asks)
        gb_call_asked_cpu(c->operation, (double)c->busy_ns / (double)(c->pieces > 0 ? c->pieces : 1));
    if (gb_call_table == NULL)
        return 0;
    int64_t slot = gb_call_slot(c->operation, status);
    if (slot < 0 && PyErr_Occurred())
        return -1;
    if (gb_call_table == NULL || slot < 0)
        return 0;
    int64_t own_ns = duration_ns > c->children_ns ? duration_ns - c->children_ns : 0;
    gb_operation_record(gb_call_table, slot, duration_ns, own_ns, c->asks && c->cpu.known ? c->user_ns : -1,
                        c->system_ns, busy_ns, c->allocated);
    return 0;
}

static gb_call *
new_call(PyObject *of)
{
    if (!Py_IS_TYPE(of, gb_operation_type)) {
        PyErr_SetString(PyExc_TypeError, "a call is of an Operation.");
        return NULL;
    }
    gb_call *c = (gb_call *)gb_call_type->tp_alloc(gb_call_type, 0);
    if (c == NULL)
        return NULL;
    c->operation = (gb_call_operation *)Py_NewRef(of);
    c->asks = gb_call_asks_cpu(c->operation);
    return c;
}

/* None where nothing is measured. */
static PyObject *
call_or_none(PyObject *of, bool begins)
{
    gb_call *c = gb_call_table == NULL ? NULL : new_call(of);
    if (c == NULL) {
        PyErr_Clear();
        Py_RETURN_NONE;
    }
    if (begins)
        gb_call_enter(c);
    return (PyObject *)c;
}

static PyObject *
native_call_begin(PyObject *self, PyObject *of)
{
    (void)self;
    return call_or_none(of, true);
}

static PyObject *
native_call_new(PyObject *self, PyObject *of)
{
    (void)self;
    return call_or_none(of, false);
}

/* By name, since asyncio, concurrent.futures and trio each have an exception of their own. */
int
gb_call_status_of(PyObject *error)
{
    if (error == Py_None)
        return GB_CALL_OK;
    const char *name = strrchr(Py_TYPE(error)->tp_name, '.');
    name = name == NULL ? Py_TYPE(error)->tp_name : name + 1;
    if (strcmp(name, "CancelledError") == 0 || strcmp(name, "Cancelled") == 0 || strcmp(name, "GeneratorExit") == 0)
        return GB_CALL_CANCELLED;
    return GB_CALL_ERROR;
}

static PyObject *
native_call_end(PyObject *self, PyObject *const *args, Py_ssize_t n)
{
    (void)self;
    if (n != 2 || !Py_IS_TYPE(args[0], gb_call_type))
        Py_RETURN_NONE;
    gb_call *c = (gb_call *)args[0];
    if (c->running) {
        int64_t duration_ns = gb_call_leave(c);
        gb_call_told(c->parent, duration_ns);
        if (gb_call_record(c, gb_call_status_of(args[1]), duration_ns, 0) < 0)
            return NULL;
    }
    Py_RETURN_NONE;
}

/* ---- the module --------------------------------------------------------------------------------------------------- */

static PyObject *
native_calls_attach(PyObject *self, PyObject *to)
{
    (void)self;
    if (to != Py_None && !gb_operations_check(to)) {
        PyErr_SetString(PyExc_TypeError, "calls_attach() needs an OperationTable or None.");
        return NULL;
    }
    gb_call_generation++;
    Py_XSETREF(gb_call_table, to == Py_None ? NULL : Py_NewRef(to));
    Py_RETURN_NONE;
}

PyMethodDef gb_call_methods[] = {
    {"calls_attach", native_calls_attach, METH_O, NULL},
    {"call_begin", native_call_begin, METH_O, NULL},
    {"call_end", (PyCFunction)(void (*)(void))native_call_end, METH_FASTCALL, NULL},
    {"call_new", native_call_new, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot cell_slots[] = {
    {Py_tp_dealloc, (void *)(uintptr_t)gb_call_dealloc},
    {Py_tp_traverse, (void *)(uintptr_t)cell_traverse},
    {Py_tp_clear, (void *)(uintptr_t)cell_clear},
    {0, NULL},
};

static PyType_Spec cell_spec = {
    .name = "glassbottom._native.CallCell",
    .basicsize = sizeof(cell),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = cell_slots,
};

int
gb_calls_add_types(PyObject *module)
{
    /* The variable and the types are kept for good: cells and calls may outlive the module, and are told by them. */
    if (variable == NULL)
        variable = PyContextVar_New("glassbottom.profile", NULL);
    if (variable == NULL)
        return -1;
    if (cell_type == NULL)
        cell_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &cell_spec, NULL);
    if (cell_type == NULL || gb_call_add_type(module) < 0)
        return -1;
    return gb_call_operations_init(module);
}
