/* labels.c: what the process works on while it allocates or runs: the route, by a small number.
 *
 * The number is in a context variable, which ordinary Python sets where a request begins. It is read only where a
 * sample is taken, so it costs nothing otherwise, and it is right for threads, tasks and executors alike because
 * contexts are. The hook looks it up in the context of the calling thread: that compares variables by identity, allocates
 * nothing and runs no Python code. PyContextVar_Get would do that too, but it also leaves what it has found in the
 * variable's cache, borrowed. In the middle of a reset, which allocates, that would be the very value that is about to
 * go; whoever read the variable next would be given it.
 */
#include "core.h"

static PyObject *variable; /* written with the GIL, never given up: a hook may be reading it */
static PyObject *ids;      /* dict: name to id */
static PyObject *names;    /* list: name by id */

static const char OTHER[] = "<more routes than the agent keeps>";

static uint32_t
number_in(PyObject *value)
{
    if (value == NULL || !PyLong_CheckExact(value))
        return 0;
    int overflow; /* then the number is -1, and nothing is raised */
    long number = PyLong_AsLongAndOverflow(value, &overflow);
    return number > 0 && number < (long)GB_LABELS_MAX ? (uint32_t)number : 0;
}

/* Whether comparing two objects could be refused: to raise that would allocate, and on 3.11 may collect. */
static bool
is_near_recursion_limit(PyThreadState *ts)
{
#if PY_VERSION_HEX >= 0x030E0000
    (void)ts;
    return false; /* it looks at how much of the stack is left, which is far more than this takes */
#elif PY_VERSION_HEX >= 0x030C0000
    return ts->c_recursion_remaining < 4;
#else
    return ts->recursion_remaining < 4;
#endif
}

static uint32_t
number_of_context(PyObject *context)
{
    if (PySequence_Contains(context, variable) <= 0)
        return 0;
    PyObject *value = PyObject_GetItem(context, variable);
    uint32_t label = number_in(value);
    Py_XDECREF(value); /* the context holds it too */
    return label;
}

uint32_t
gb_label_gil(PyThreadState *ts)
{
    PyObject *context = ts->context;
    /* Beside an exception that is on its way nothing may go wrong. */
    if (variable == NULL || context == NULL || !PyContext_CheckExact(context) || PyErr_Occurred()
        || is_near_recursion_limit(ts))
        return 0;
    uint32_t label = number_of_context(context);
    if (PyErr_Occurred())
        PyErr_Clear();
    return label;
}

uint32_t
gb_label_of_thread(PyThreadState *ts)
{
    PyObject *context = ts->context;
    /* An extension may have pending calls made beside an exception of its own, which must stay. */
    if (variable == NULL || context == NULL || !PyContext_CheckExact(context) || PyErr_Occurred())
        return 0;
    Py_INCREF(context);
    uint32_t label = number_of_context(context);
    if (PyErr_Occurred())
        PyErr_Clear();
    Py_DECREF(context);
    return label;
}

void
gb_labels_python_ended(void)
{
    variable = ids = names = NULL;
}

static PyObject *
native_set_label_variable(PyObject *self, PyObject *arg)
{
    (void)self;
    if (arg != Py_None && !PyContextVar_CheckExact(arg)) {
        PyErr_SetString(PyExc_TypeError, "set_label_variable() needs a ContextVar or None.");
        return NULL;
    }
    /* The one before stays referenced: there are as many as there are agents in the life of a process. */
    if (arg == Py_None) {
        variable = NULL;
    } else {
        gb_python_end_install();
        Py_INCREF(arg);
        variable = arg;
    }
    Py_RETURN_NONE;
}

static int
make_tables(void)
{
    if (ids != NULL)
        return 0;
    PyObject *new_ids = PyDict_New();
    PyObject *new_names = Py_BuildValue("[s]", "");
    if (new_ids == NULL || new_names == NULL) {
        Py_XDECREF(new_ids);
        Py_XDECREF(new_names);
        return -1;
    }
    gb_python_end_install();
    ids = new_ids;
    names = new_names;
    return 0;
}

static PyObject *
native_label(PyObject *self, PyObject *arg)
{
    (void)self;
    if (!PyUnicode_CheckExact(arg)) {
        PyErr_SetString(PyExc_TypeError, "label() needs a str.");
        return NULL;
    }
    if (make_tables() < 0)
        return NULL;
    PyObject *known = PyDict_GetItemWithError(ids, arg);
    if (known != NULL || PyErr_Occurred())
        return Py_XNewRef(known);
    if (PyUnicode_GET_LENGTH(arg) == 0)
        return PyLong_FromLong(0);
    PyObject *name = NULL;
    Py_ssize_t next = PyList_GET_SIZE(names);
    if (next >= (Py_ssize_t)GB_LABELS_MAX)
        return PyLong_FromLong((long)GB_LABELS_MAX - 1);
    /* The last one is for all that come after it. */
    name = next == (Py_ssize_t)GB_LABELS_MAX - 1 ? PyUnicode_FromString(OTHER) : Py_NewRef(arg);
    PyObject *id = PyLong_FromSsize_t(next);
    int status = name == NULL || id == NULL ? -1 : PyDict_SetItem(ids, name, id);
    if (status == 0)
        status = PyList_Append(names, name);
    Py_XDECREF(name);
    if (status < 0)
        Py_CLEAR(id);
    return id;
}

static PyObject *
native_label_name(PyObject *self, PyObject *arg)
{
    (void)self;
    Py_ssize_t id = PyLong_AsSsize_t(arg);
    if (id == -1 && PyErr_Occurred())
        return NULL;
    if (id == 0)
        return PyUnicode_FromString("");
    if (names == NULL || id < 0 || id >= PyList_GET_SIZE(names)) {
        PyErr_SetObject(PyExc_KeyError, arg);
        return NULL;
    }
    return Py_NewRef(PyList_GET_ITEM(names, id));
}

static PyObject *
native_thread_allocated_bytes(PyObject *self, PyObject *args)
{
    (void)self;
    (void)args;
    if (!atomic_load_explicit(&gb_sampling, memory_order_relaxed))
        return PyFloat_FromDouble(0.0);
    return PyFloat_FromDouble((double)(gb_tls.raw_drawn - gb_tls.raw_left) + gb_tls.small_sampled);
}

PyMethodDef gb_label_methods[] = {
    {"set_label_variable", native_set_label_variable, METH_O, NULL},
    {"label", native_label, METH_O, NULL},
    {"label_name", native_label_name, METH_O, NULL},
    {"thread_allocated_bytes", native_thread_allocated_bytes, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};
