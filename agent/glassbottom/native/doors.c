/* doors.c: a request on its way through an ASGI application: what goes in, and what is sent out.
 *
 * What is sent is looked at as it passes: the status is in the first message, and the last one ends the request.
 */
#include "requests.h"

#include <stddef.h>
#include <structmember.h>

static PyTypeObject *door_type;
static PyObject *str_type, *str_http, *str_websocket, *str_method, *str_status, *str_trailers, *str_more_body,
    *str_more_trailers, *str_start, *str_body, *str_pathsend, *str_response_trailers;

/* It is itself the send() that the application gets, which may keep it: that costs no object more, and of the request,
 * once it is closed, nothing. */
typedef struct {
    PyObject_HEAD gb_request *request; /* NULL: closed */
    PyObject *send;
    vectorcallfunc call;
    char has_trailers;
} door;

static PyMemberDef door_members[] = {
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(door, call), READONLY, NULL},
    {"request", T_OBJECT, offsetof(door, request), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static int
door_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(((door *)self)->request);
    Py_VISIT(((door *)self)->send);
    return 0;
}

static int
door_clear(PyObject *self)
{
    Py_CLEAR(((door *)self)->request);
    Py_CLEAR(((door *)self)->send);
    return 0;
}

static bool
is_true(PyObject *message, PyObject *key)
{
    PyObject *value = PyDict_GetItemWithError(message, key);
    return value != NULL && PyObject_IsTrue(value) > 0;
}

/* Looks at what is sent. -1 with an exception that is not ours. */
static int
look(door *d, PyObject *message)
{
    PyObject *kind = PyDict_GetItemWithError(message, str_type);
    bool is_last = false;
    if (gb_is_text(kind, str_body)) {
        is_last = !d->has_trailers && !is_true(message, str_more_body);
    } else if (gb_is_text(kind, str_start)) {
        PyObject *status = PyDict_GetItemWithError(message, str_status);
        if (status != NULL && PyLong_Check(status))
            d->request->status_code = (int)PyLong_AsLong(status);
        d->has_trailers = is_true(message, str_trailers);
    } else {
        is_last = gb_is_text(kind, str_pathsend)
                  || (gb_is_text(kind, str_response_trailers) && !is_true(message, str_more_trailers));
    }
    if (PyErr_Occurred()) {
        if (!PyErr_ExceptionMatches(PyExc_Exception))
            return -1;
        PyErr_Clear(); /* whatever this is, the server will say so */
    }
    return is_last ? gb_request_end(d->request, NULL) : 0;
}

/* As the server's send(): no coroutine more than its own. */
static PyObject *
door_call(PyObject *self, PyObject *const *args, size_t flags, PyObject *keywords)
{
    door *d = (door *)self;
    if (d->send == NULL) { /* collected, and called by a finalizer */
        PyErr_SetString(PyExc_RuntimeError, "send() was called after the request was collected.");
        return NULL;
    }
    if (d->request != NULL && PyVectorcall_NARGS(flags) == 1 && PyDict_Check(args[0]) && look(d, args[0]) < 0)
        return NULL;
    return PyObject_Vectorcall(d->send, args, flags & ~PY_VECTORCALL_ARGUMENTS_OFFSET, keywords);
}

static PyObject *
door_end(PyObject *self, PyObject *const *args, Py_ssize_t n)
{
    return gb_request_end(((door *)self)->request, n > 0 ? args[0] : NULL) < 0 ? NULL : Py_NewRef(Py_None);
}

static PyObject *
door_close(PyObject *self, PyObject *args)
{
    (void)args;
    door *d = (door *)self;
    PyObject *closed = gb_request_close(d->request);
    Py_CLEAR(d->request);
    return closed;
}

static PyMethodDef door_methods[] = {
    {"end", (PyCFunction)(void (*)(void))door_end, METH_FASTCALL, NULL},
    {"close", door_close, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot door_slots[] = {
    {Py_tp_doc, (void *)(uintptr_t)"One request on its way through an ASGI application. See _native.pyi."},
    {Py_tp_traverse, (void *)(uintptr_t)door_traverse},
    {Py_tp_clear, (void *)(uintptr_t)door_clear},
    {Py_tp_dealloc, (void *)(uintptr_t)gb_span_gc_dealloc},
    {Py_tp_call, (void *)(uintptr_t)PyVectorcall_Call},
    {Py_tp_members, door_members},
    {Py_tp_methods, door_methods},
    {0, NULL},
};

static PyType_Spec door_spec = {
    .name = "glassbottom._native.Door",
    .basicsize = sizeof(door),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE
             | Py_TPFLAGS_HAVE_VECTORCALL,
    .slots = door_slots,
};

/* The name of a request of this scope, a new reference; NULL for what is none. */
static PyObject *
method_of(gb_request_desk *d, PyObject *scope)
{
    PyObject *kind = PyDict_GetItemWithError(scope, str_type);
    if (gb_is_text(kind, str_websocket))
        return Py_NewRef(gb_str_websocket);
    if (!gb_is_text(kind, str_http))
        return NULL;
    PyObject *method = PyDict_GetItemWithError(scope, str_method);
    bool is_known = method != NULL && PyUnicode_CheckExact(method) && PySet_Contains(d->methods, method) > 0;
    return Py_NewRef(is_known ? method : d->other_method);
}

PyObject *
gb_request_open(PyObject *self, PyObject *const *args, Py_ssize_t n)
{
    gb_request_desk *d = (gb_request_desk *)self;
    if (n != 2) {
        PyErr_SetString(PyExc_TypeError, "open() needs a scope and a send().");
        return NULL;
    }
    PyObject *method = PyDict_Check(args[0]) ? method_of(d, args[0]) : NULL;
    if (method == NULL) {
        if (PyErr_Occurred() && gb_span_report(&d->desk, "spans.request") < 0)
            return NULL;
        Py_RETURN_NONE;
    }
    /* The door first: once the request has begun, nothing may fail. */
    gb_ours before = gb_ours_begin();
    door *opened = (door *)door_type->tp_alloc(door_type, 0);
    gb_ours_end(before);
    bool failed = false;
    if (opened != NULL)
        opened->request = gb_request_begin(d, method, args[0], false, &failed);
    Py_DECREF(method);
    if (opened == NULL)
        return NULL;
    if (opened->request == NULL) {
        Py_DECREF(opened);
        return failed ? NULL : Py_NewRef(Py_None);
    }
    opened->send = Py_NewRef(args[1]);
    opened->call = door_call;
    return (PyObject *)opened;
}

int
gb_doors_add_type(PyObject *module)
{
    static const struct {
        PyObject **to;
        const char *text;
    } TEXTS[] = {
        {&str_type, "type"},
        {&str_http, "http"},
        {&str_websocket, "websocket"},
        {&str_method, "method"},
        {&str_status, "status"},
        {&str_trailers, "trailers"},
        {&str_more_body, "more_body"},
        {&str_more_trailers, "more_trailers"},
        {&str_start, "http.response.start"},
        {&str_body, "http.response.body"},
        {&str_pathsend, "http.response.pathsend"},
        {&str_response_trailers, "http.response.trailers"},
    };
    for (size_t i = 0; i < sizeof(TEXTS) / sizeof(*TEXTS); i++) {
        if (gb_intern(TEXTS[i].to, TEXTS[i].text) < 0)
            return -1;
    }
    return gb_span_add_type(module, &door_spec, NULL, &door_type);
}
