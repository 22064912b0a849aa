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

static PyTypeObject *call_type, *cell_type;
static PyObject *variable; /* context variable: the cell */

/* ---- a call that has begun ---------------------------------------------------------------------------------------- */

/* Of one context. */
typedef struct {
    PyObject_HEAD const void *context; /* whose; compared, never followed: it may be gone */
    struct call *top;                  /* the innermost call that has begun and not ended */
} cell;

/* Of a coroutine or generator it is also what stands between the wrapper and what is wrapped. */
typedef struct call {
    PyObject_HEAD gb_call_operation *operation;
    struct call *parent; /* the caller, of this piece */
    cell *cell;          /* where it is on top, or below */
    bool running;        /* has begun, or this piece has, and not ended */
    bool asks, recorded;
    int64_t started_ns;  /* this piece */
    int64_t children_ns; /* time in callees */
    double allocated;    /* NaN: not known */
    gb_cpu_time cpu;
    /* Of what runs in pieces: */
    PyObject *inner;
    struct call *first_parent; /* of this await */
    int64_t await_ns, duration_ns, busy_ns, user_ns, system_ns, pieces;
} call;

static double
allocated_now(void)
{
    if (!atomic_load_explicit(&gb_sampling, memory_order_relaxed))
        return NAN;
    return (double)(gb_tls.raw_drawn - gb_tls.raw_left) + gb_tls.small_sampled;
}

static int
call_traverse(PyObject *self, visitproc visit, void *arg)
{
    call *c = (call *)self;
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(c->operation);
    Py_VISIT(c->parent);
    Py_VISIT(c->first_parent);
    Py_VISIT(c->cell);
    Py_VISIT(c->inner);
    return 0;
}

static int
call_clear(PyObject *self)
{
    call *c = (call *)self;
    Py_CLEAR(c->operation);
    Py_CLEAR(c->parent);
    Py_CLEAR(c->first_parent);
    Py_CLEAR(c->cell);
    Py_CLEAR(c->inner);
    return 0;
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

static call *
innermost(void)
{
    cell *here = this_cell();
    call *top = here == NULL ? NULL : (call *)Py_XNewRef(here->top);
    Py_XDECREF(here);
    return top;
}

/* Takes a call out of its cell: it is on top, unless a block was opened and not closed meanwhile, as in a generator. */
static void
take_out(call *c)
{
    if (c->cell == NULL)
        return;
    call **at = &c->cell->top;
    while (*at != NULL && *at != c)
        at = &(*at)->parent;
    if (*at == NULL)
        return;
    *at = (call *)Py_XNewRef(c->parent);
    Py_DECREF(c); /* the caller holds another */
}

static void
told(call *parent, int64_t duration_ns)
{
    if (parent != NULL)
        parent->children_ns += duration_ns;
}

static void
enter(call *c)
{
    cell *here = this_cell();
    Py_XSETREF(c->cell, here);
    Py_XSETREF(c->parent, here == NULL ? NULL : (call *)Py_XNewRef(here->top));
    if (here != NULL)
        Py_XSETREF(here->top, (call *)Py_NewRef(c));
    c->running = true;
    c->cpu.known = false;
    if (c->asks)
        c->cpu = gb_cpu_now();
    c->allocated -= allocated_now();
    c->started_ns = (int64_t)gb_monotonic_ns();
}

/* Returns how long the piece took. */
static int64_t
leave(call *c)
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
    take_out(c);
    return piece_ns;
}

/* As leave(), beside an exception that is on its way. */
static int64_t
leave_raising(call *c)
{
    PyObject *type, *value, *trace;
    PyErr_Fetch(&type, &value, &trace);
    int64_t piece_ns = leave(c);
    PyErr_Restore(type, value, trace);
    return piece_ns;
}

/* -1 with an exception of the application's, such as KeyboardInterrupt, that came meanwhile. */
static int
record(call *c, int status, int64_t duration_ns, int64_t busy_ns)
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

static call *
new_call(PyObject *of)
{
    if (!Py_IS_TYPE(of, gb_operation_type)) {
        PyErr_SetString(PyExc_TypeError, "a call is of an Operation.");
        return NULL;
    }
    call *c = (call *)call_type->tp_alloc(call_type, 0);
    if (c == NULL)
        return NULL;
    c->operation = (gb_call_operation *)Py_NewRef(of);
    c->asks = gb_call_asks_cpu(c->operation);
    return c;
}

static PyObject *
native_call_begin(PyObject *self, PyObject *of)
{
    (void)self;
    if (gb_call_table == NULL)
        Py_RETURN_NONE;
    call *c = new_call(of);
    if (c == NULL) {
        PyErr_Clear();
        Py_RETURN_NONE;
    }
    enter(c);
    return (PyObject *)c;
}

static PyObject *
native_call_new(PyObject *self, PyObject *of)
{
    (void)self;
    if (gb_call_table == NULL)
        Py_RETURN_NONE;
    call *c = new_call(of);
    if (c == NULL) {
        PyErr_Clear();
        Py_RETURN_NONE;
    }
    return (PyObject *)c;
}

/* What an exception means: by name, since asyncio, concurrent.futures and trio each have one of their own. */
static int
status_of(PyObject *error)
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
    if (n != 2 || !Py_IS_TYPE(args[0], call_type))
        Py_RETURN_NONE;
    call *c = (call *)args[0];
    if (c->running) {
        int64_t duration_ns = leave(c);
        told(c->parent, duration_ns);
        if (record(c, status_of(args[1]), duration_ns, 0) < 0)
            return NULL;
    }
    Py_RETURN_NONE;
}

/* ---- pieces ------------------------------------------------------------------------------------------------------- */

static PyObject *
call_of(PyObject *self, PyObject *awaitable)
{
    call *c = (call *)self;
    Py_XSETREF(c->inner, Py_NewRef(awaitable));
    call *parent = innermost(); /* first: it may collect, and this may be let go of meanwhile */
    Py_XSETREF(c->first_parent, parent);
    c->await_ns = (int64_t)gb_monotonic_ns();
    return Py_NewRef(self);
}

static PyObject *
call_awaited(PyObject *self, PyObject *args)
{
    (void)args;
    call *c = (call *)self;
    int64_t duration_ns = (int64_t)gb_monotonic_ns() - c->await_ns;
    c->duration_ns += duration_ns;
    /* Awaited all the time by the same caller: all of it, waits as well, was spent in a callee. */
    if (c->parent == c->first_parent)
        told(c->parent, duration_ns);
    Py_RETURN_NONE;
}

static PyObject *
call_end_pieces(PyObject *self, PyObject *error)
{
    call *c = (call *)self;
    if (record(c, status_of(error), c->duration_ns, c->busy_ns) < 0)
        return NULL;
    Py_RETURN_NONE;
}

/* A generator does not wait, it is its consumer's turn; so it took as long as it ran. */
static PyObject *
call_end_items(PyObject *self, PyObject *error)
{
    call *c = (call *)self;
    if (record(c, status_of(error), c->busy_ns, 0) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PySendResult
call_am_send(PyObject *self, PyObject *value, PyObject **result)
{
    call *c = (call *)self;
    if (c->inner == NULL || c->running) {
        *result = NULL;
        PyErr_SetString(PyExc_RuntimeError, "this coroutine is being awaited already");
        return PYGEN_ERROR;
    }
    PyObject *inner = Py_NewRef(c->inner);
    enter(c);
    PySendResult sent = PyIter_Send(inner, value, result);
    if (sent == PYGEN_ERROR)
        leave_raising(c);
    else
        leave(c);
    Py_DECREF(inner);
    return sent;
}

/* A value that was returned becomes a StopIteration, made so that a tuple or an exception stays one value. */
static PyObject *
as_iterator(PySendResult sent, PyObject *result, bool none_is_silent)
{
    if (sent != PYGEN_RETURN)
        return result;
    if (result != Py_None || !none_is_silent) {
        PyObject *stop = PyObject_CallOneArg(PyExc_StopIteration, result);
        if (stop != NULL)
            PyErr_SetObject(PyExc_StopIteration, stop);
        Py_XDECREF(stop);
    }
    Py_DECREF(result);
    return NULL;
}

static PyObject *
call_next(PyObject *self)
{
    PyObject *result = NULL;
    PySendResult sent = call_am_send(self, Py_None, &result);
    return as_iterator(sent, result, true);
}

static PyObject *
call_send(PyObject *self, PyObject *value)
{
    PyObject *result = NULL;
    PySendResult sent = call_am_send(self, value, &result);
    return as_iterator(sent, result, false);
}

/* Calls something as one piece, of a generator as one item. */
static PyObject *
as_piece(call *c, PyObject *callable, PyObject *const *args, size_t n, bool is_item)
{
    if (c->running) /* it calls itself, and will be told off */
        return PyObject_Vectorcall(callable, args, n, NULL);
    enter(c);
    PyObject *result = PyObject_Vectorcall(callable, args, n, NULL);
    int64_t piece_ns = result == NULL ? leave_raising(c) : leave(c);
    if (is_item)
        told(c->parent, piece_ns);
    return result;
}

static PyObject *
call_method(PyObject *self, const char *name, PyObject *const *args, Py_ssize_t n)
{
    call *c = (call *)self;
    if (c->inner == NULL)
        Py_RETURN_NONE;
    PyObject *inner = Py_NewRef(c->inner);
    PyObject *method = PyObject_GetAttrString(inner, name);
    Py_DECREF(inner);
    if (method == NULL)
        return NULL;
    PyObject *result = as_piece(c, method, args, (size_t)n, false);
    Py_DECREF(method);
    return result;
}

static PyObject *
call_throw(PyObject *self, PyObject *const *args, Py_ssize_t n)
{
    return call_method(self, "throw", args, n);
}

static PyObject *
call_close(PyObject *self, PyObject *args)
{
    (void)args;
    return call_method(self, "close", NULL, 0);
}

/* run(resume, argument): one piece of a generator. */
static PyObject *
call_run(PyObject *self, PyObject *const *args, Py_ssize_t n)
{
    if (n != 2) {
        PyErr_SetString(PyExc_TypeError, "run() takes two arguments.");
        return NULL;
    }
    return as_piece((call *)self, args[0], args + 1, 1, true);
}

/* What is not its own is that of what is wrapped, so that whoever follows `cr_await` gets to where a task waits. */
static PyObject *
call_getattro(PyObject *self, PyObject *name)
{
    PyObject *found = PyObject_GenericGetAttr(self, name);
    if (found != NULL || ((call *)self)->inner == NULL || !PyErr_ExceptionMatches(PyExc_AttributeError))
        return found;
    PyErr_Clear();
    PyObject *inner = Py_NewRef(((call *)self)->inner);
    found = PyObject_GetAttr(inner, name);
    Py_DECREF(inner);
    return found;
}

/* ---- blocks ------------------------------------------------------------------------------------------------------- */

/* end_waited(error, busy_ns): of a block that was left and resumed meanwhile. CPU time and bytes of the thread are then
 * not its own. */
static PyObject *
call_end_waited(PyObject *self, PyObject *const *args, Py_ssize_t n)
{
    call *c = (call *)self;
    if (n != 2 || !c->running)
        Py_RETURN_NONE;
    int64_t busy_ns = PyLong_AsLongLong(args[1]);
    if (busy_ns == -1 && PyErr_Occurred())
        return NULL;
    int64_t duration_ns = (int64_t)gb_monotonic_ns() - c->started_ns;
    c->running = c->asks = false;
    c->allocated = NAN;
    take_out(c);
    told(c->parent, duration_ns);
    busy_ns = busy_ns < 0 ? 0 : busy_ns > duration_ns ? duration_ns : busy_ns;
    if (record(c, status_of(args[0]), duration_ns, busy_ns) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *
call_started_ns(PyObject *self, void *closure)
{
    (void)closure;
    return PyLong_FromLongLong(((call *)self)->started_ns);
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

static PyMethodDef call_methods[] = {
    {"of", call_of, METH_O, NULL},
    {"awaited", call_awaited, METH_NOARGS, NULL},
    {"end_pieces", call_end_pieces, METH_O, NULL},
    {"end_items", call_end_items, METH_O, NULL},
    {"run", (PyCFunction)(void (*)(void))call_run, METH_FASTCALL, NULL},
    {"send", call_send, METH_O, NULL},
    {"throw", (PyCFunction)(void (*)(void))call_throw, METH_FASTCALL, NULL},
    {"close", call_close, METH_NOARGS, NULL},
    {"end_waited", (PyCFunction)(void (*)(void))call_end_waited, METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef call_getset[] = {{"started_ns", call_started_ns, NULL, NULL, NULL}, {NULL, NULL, NULL, NULL, NULL}};

static PyType_Slot call_slots[] = {
    {Py_tp_doc, (void *)(uintptr_t)"A call that has begun. See _native.pyi."},
    {Py_tp_dealloc, (void *)(uintptr_t)gb_call_dealloc},
    {Py_tp_traverse, (void *)(uintptr_t)call_traverse},
    {Py_tp_clear, (void *)(uintptr_t)call_clear},
    {Py_tp_getattro, (void *)(uintptr_t)call_getattro},
    {Py_tp_iter, (void *)(uintptr_t)PyObject_SelfIter},
    {Py_tp_iternext, (void *)(uintptr_t)call_next},
    {Py_am_await, (void *)(uintptr_t)PyObject_SelfIter},
    {Py_am_send, (void *)(uintptr_t)call_am_send},
    {Py_tp_methods, call_methods},
    {Py_tp_getset, call_getset},
    {0, NULL},
};

static PyType_Spec call_spec = {
    .name = "glassbottom._native.Call",
    .basicsize = sizeof(call),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = call_slots,
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
    if (call_type == NULL) {
        call_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &call_spec, NULL);
        cell_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &cell_spec, NULL);
    }
    if (call_type == NULL || cell_type == NULL || PyModule_AddType(module, call_type) < 0)
        return -1;
    return gb_call_operations_init(module);
}
