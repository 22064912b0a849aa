/* call_pieces.c: a call of what runs in pieces: a coroutine between its awaits, a generator between its items.
 *
 * Every piece begins and ends as a call does, since between two of them others run. The call itself stands between
 * whoever awaits and what is awaited.
 */
#include "calls.h"

#include <math.h>

PyTypeObject *gb_call_type;

static PyObject *
call_of(PyObject *self, PyObject *awaitable)
{
    gb_call *c = (gb_call *)self;
    Py_XSETREF(c->inner, Py_NewRef(awaitable));
    gb_call *parent = gb_call_innermost(); /* first: it may collect, and this may be let go of meanwhile */
    Py_XSETREF(c->first_parent, parent);
    c->await_ns = (int64_t)gb_monotonic_ns();
    return Py_NewRef(self);
}

static PyObject *
call_awaited(PyObject *self, PyObject *args)
{
    (void)args;
    gb_call *c = (gb_call *)self;
    int64_t duration_ns = (int64_t)gb_monotonic_ns() - c->await_ns;
    c->duration_ns += duration_ns;
    /* Awaited all the time by the same caller: all of it, waits as well, was spent in a callee. */
    if (c->parent == c->first_parent)
        gb_call_told(c->parent, duration_ns);
    Py_RETURN_NONE;
}

static PyObject *
call_end_pieces(PyObject *self, PyObject *error)
{
    gb_call *c = (gb_call *)self;
    if (gb_call_record(c, gb_call_status_of(error), c->duration_ns, c->busy_ns) < 0)
        return NULL;
    Py_RETURN_NONE;
}

/* A generator does not wait, it is its consumer's turn; so it took as long as it ran. */
static PyObject *
call_end_items(PyObject *self, PyObject *error)
{
    gb_call *c = (gb_call *)self;
    if (gb_call_record(c, gb_call_status_of(error), c->busy_ns, 0) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PySendResult
call_am_send(PyObject *self, PyObject *value, PyObject **result)
{
    gb_call *c = (gb_call *)self;
    if (c->inner == NULL || c->running) {
        *result = NULL;
        PyErr_SetString(PyExc_RuntimeError, "this coroutine is being awaited already");
        return PYGEN_ERROR;
    }
    PyObject *inner = Py_NewRef(c->inner);
    gb_call_enter(c);
    PySendResult sent = PyIter_Send(inner, value, result);
    if (sent == PYGEN_ERROR)
        gb_call_leave_raising(c);
    else
        gb_call_leave(c);
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
as_piece(gb_call *c, PyObject *callable, PyObject *const *args, size_t n, bool is_item)
{
    if (c->running) /* it calls itself, and will be told off */
        return PyObject_Vectorcall(callable, args, n, NULL);
    gb_call_enter(c);
    PyObject *result = PyObject_Vectorcall(callable, args, n, NULL);
    int64_t piece_ns = result == NULL ? gb_call_leave_raising(c) : gb_call_leave(c);
    if (is_item)
        gb_call_told(c->parent, piece_ns);
    return result;
}

static PyObject *
call_method(PyObject *self, const char *name, PyObject *const *args, Py_ssize_t n)
{
    gb_call *c = (gb_call *)self;
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
    return as_piece((gb_call *)self, args[0], args + 1, 1, true);
}

/* What is not its own is that of what is wrapped, so that whoever follows `cr_await` gets to where a task waits. */
static PyObject *
call_getattro(PyObject *self, PyObject *name)
{
    PyObject *found = PyObject_GenericGetAttr(self, name);
    if (found != NULL || ((gb_call *)self)->inner == NULL || !PyErr_ExceptionMatches(PyExc_AttributeError))
        return found;
    PyErr_Clear();
    PyObject *inner = Py_NewRef(((gb_call *)self)->inner);
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
    gb_call *c = (gb_call *)self;
    if (n != 2 || !c->running)
        Py_RETURN_NONE;
    int64_t busy_ns = PyLong_AsLongLong(args[1]);
    if (busy_ns == -1 && PyErr_Occurred())
        return NULL;
    int64_t duration_ns = (int64_t)gb_monotonic_ns() - c->started_ns;
    c->running = c->asks = false;
    c->allocated = NAN;
    gb_call_take_out(c);
    gb_call_told(c->parent, duration_ns);
    busy_ns = busy_ns < 0 ? 0 : busy_ns > duration_ns ? duration_ns : busy_ns;
    if (gb_call_record(c, gb_call_status_of(args[0]), duration_ns, busy_ns) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *
call_started_ns(PyObject *self, void *closure)
{
    (void)closure;
    return PyLong_FromLongLong(((gb_call *)self)->started_ns);
}

/* ---- the type ----------------------------------------------------------------------------------------------------- */

static int
call_traverse(PyObject *self, visitproc visit, void *arg)
{
    gb_call *c = (gb_call *)self;
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
    gb_call *c = (gb_call *)self;
    Py_CLEAR(c->operation);
    Py_CLEAR(c->parent);
    Py_CLEAR(c->first_parent);
    Py_CLEAR(c->cell);
    Py_CLEAR(c->inner);
    return 0;
}

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
    .basicsize = sizeof(gb_call),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = call_slots,
};

int
gb_call_add_type(PyObject *module)
{
    if (gb_call_type == NULL)
        gb_call_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &call_spec, NULL);
    return gb_call_type == NULL ? -1 : PyModule_AddType(module, gb_call_type);
}
