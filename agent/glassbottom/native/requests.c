/* requests.c: requests that we see ourselves, where the application has no OpenTelemetry, from the door to the end.
 *
 * In the application's way at every request, beside its own code that has just filled the caches; so as little of it as
 * possible is Python. A request is what the context works on (spans.h); it ends with the last piece of its response,
 * and counts unless OpenTelemetry has begun a span for it. What is rare is asked of a Python object, the host
 * (spans/http.py). Everything is under the GIL. Nothing raises into the application but what it raises itself.
 */
#include "requests.h"

#include <stddef.h>
#include <string.h>
#include <structmember.h>

PyObject *gb_str_websocket;
static PyTypeObject *request_type;
static PyObject *str_server, *str_consumer, *str_cancelled, *str_any_path;

/* ---- a request ---------------------------------------------------------------------------------------------------- */

static PyMemberDef request_members[] = {
    {"method", T_OBJECT, offsetof(gb_request, method), READONLY, NULL},
    {"route", T_OBJECT, offsetof(gb_request, route), READONLY, NULL},
    {"error", T_OBJECT, offsetof(gb_request, error), 0, NULL},
    {"environ", T_OBJECT, offsetof(gb_request, environ), READONLY, NULL},
    {"otel", T_OBJECT, offsetof(gb_request, otel), 0, NULL},
    {"status_code", T_INT, offsetof(gb_request, status_code), 0, NULL},
    {"is_task", T_BOOL, offsetof(gb_request, is_task), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static int
request_traverse(PyObject *self, visitproc visit, void *arg)
{
    gb_request *r = (gb_request *)self;
    Py_VISIT(r->desk);
    Py_VISIT(r->error);
    Py_VISIT(r->environ);
    Py_VISIT(r->otel);
    return gb_span_record_traverse(self, visit, arg);
}

static int
request_clear(PyObject *self)
{
    gb_request *r = (gb_request *)self;
    Py_CLEAR(r->desk);
    Py_CLEAR(r->method);
    Py_CLEAR(r->route);
    Py_CLEAR(r->error);
    Py_CLEAR(r->environ);
    Py_CLEAR(r->otel);
    return gb_span_record_clear(self);
}

static bool
is_set(PyObject *object)
{
    return object != NULL && object != Py_None;
}

/* "ok", "error" or "cancelled", borrowed. */
static PyObject *
outcome(gb_request *r, PyObject *error)
{
    if (is_set(error)) {
        const char *name = strrchr(Py_TYPE(error)->tp_name, '.');
        name = name == NULL ? Py_TYPE(error)->tp_name : name + 1;
        Py_XSETREF(r->error, Py_NewRef((PyObject *)Py_TYPE(error)));
        return strcmp(name, "CancelledError") == 0 ? str_cancelled : gb_str_error;
    }
    return r->status_code >= 500 || is_set(r->error) ? gb_str_error : gb_str_ok;
}

static int
write_down(gb_request *r, PyObject *error)
{
    gb_request_desk *d = r->desk;
    long long duration_ns = (long long)gb_monotonic_ns() - r->base.start_ns;
    /* Spans that are part of it go by another clock, so only lengths are taken from them. */
    long long covered_ns =
        r->base.covered_ns + (r->base.children > 0 ? (long long)gb_realtime_ns() - r->base.since_ns : 0);
    long long own_ns = covered_ns < 0 ? duration_ns : covered_ns > duration_ns ? 0 : duration_ns - covered_ns;
    PyObject *status = outcome(r, error);
    gb_span_name *name = gb_span_count(&d->desk, &r->base, r->base.name, r->is_task ? str_consumer : str_server, status,
                                       gb_str_empty, gb_str_empty, duration_ns, own_ns);
    if (name == NULL)
        return -1;
    d->requests++;
    PyObject *told = Py_None;
    if (duration_ns > name->floor_ns && r->method != gb_str_websocket)
        told = PyObject_CallMethod(d->desk.host, "slow", "OOLLO", r, name, duration_ns, own_ns, status);
    else
        Py_INCREF(told);
    Py_DECREF(name);
    if (told != NULL && d->is_logged)
        Py_SETREF(told, PyObject_CallMethod(d->desk.host, "ended", "OLO", r, duration_ns, status));
    Py_XDECREF(told);
    return told == NULL ? -1 : 0;
}

int
gb_request_end(gb_request *r, PyObject *error)
{
    if (r == NULL || r->base.done || r->desk == NULL) /* NULL: collected, and called by a finalizer */
        return 0;
    r->base.done = 1;
    int status = !is_set(r->otel) && write_down(r, error) < 0 ? gb_span_report(&r->desk->desk, "spans.request") : 0;
    Py_CLEAR(r->environ);
    return status;
}

PyObject *
gb_request_close(gb_request *r)
{
    PyObject *type, *value, *trace;
    int status = gb_request_end(r, NULL);
    PyErr_Fetch(&type, &value, &trace);
    if (r != NULL && r->desk != NULL)
        gb_span_leave(&r->desk->desk, &r->base);
    PyErr_Restore(type, value, trace);
    return status < 0 ? NULL : Py_NewRef(Py_None);
}

static PyObject *
request_end(PyObject *self, PyObject *const *args, Py_ssize_t n)
{
    return gb_request_end((gb_request *)self, n > 0 ? args[0] : NULL) < 0 ? NULL : Py_NewRef(Py_None);
}

static PyObject *
request_close(PyObject *self, PyObject *args)
{
    (void)args;
    return gb_request_close((gb_request *)self);
}

static PyMethodDef request_methods[] = {
    {"end", (PyCFunction)(void (*)(void))request_end, METH_FASTCALL, NULL},
    {"close", request_close, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot request_slots[] = {
    {Py_tp_doc, (void *)(uintptr_t)"A request that we see ourselves. See _native.pyi."},
    {Py_tp_traverse, (void *)(uintptr_t)request_traverse},
    {Py_tp_clear, (void *)(uintptr_t)request_clear},
    {Py_tp_dealloc, (void *)(uintptr_t)gb_span_gc_dealloc},
    {Py_tp_members, request_members},
    {Py_tp_methods, request_methods},
    {0, NULL},
};

static PyType_Spec request_spec = {
    .name = "glassbottom._native.Request",
    .basicsize = sizeof(gb_request),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = request_slots,
};

/* ---- the desk's methods ------------------------------------------------------------------------------------------- */

static PyObject *
desk_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"host",    "table",   "names",        "numbers",   "label",
                            "request", "methods", "other_method", "is_logged", NULL};
    PyObject *o[6], *methods, *other;
    int is_logged;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "$OOOOOOO!Up", names, &o[0], &o[1], &o[2], &o[3], &o[4], &o[5],
                                     &PyFrozenSet_Type, &methods, &other, &is_logged))
        return NULL;
    gb_request_desk *d = (gb_request_desk *)type->tp_alloc(type, 0);
    if (d == NULL)
        return NULL;
    if (gb_span_desk_init(&d->desk, o) < 0) {
        Py_DECREF(d);
        return NULL;
    }
    d->methods = Py_NewRef(methods);
    d->other_method = Py_NewRef(other);
    d->is_logged = (char)is_logged;
    return (PyObject *)d;
}

static int
desk_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(((gb_request_desk *)self)->methods);
    return gb_span_desk_traverse(&((gb_request_desk *)self)->desk, visit, arg);
}

static int
desk_clear(PyObject *self)
{
    gb_request_desk *d = (gb_request_desk *)self;
    Py_CLEAR(d->methods);
    Py_CLEAR(d->other_method);
    gb_span_desk_clear(&d->desk);
    return 0;
}

gb_request *
gb_request_begin(gb_request_desk *d, PyObject *name, PyObject *environ, bool in_thread, bool *failed)
{
    *failed = false;
    PyObject *outer = gb_span_request_now(&d->desk);
    bool is_first = outer == Py_None;
    Py_XDECREF(outer);
    gb_ours before = gb_ours_begin();
    gb_request *r = is_first ? (gb_request *)request_type->tp_alloc(request_type, 0) : NULL;
    gb_ours_end(before);
    if (r != NULL) {
        r->desk = (gb_request_desk *)Py_NewRef((PyObject *)d);
        r->base.name = Py_NewRef(name);
        r->method = Py_NewRef(name);
        r->environ = Py_NewRef(environ);
        if (gb_span_enter(&d->desk, &r->base) == 0
            && (!d->is_logged || gb_span_call_host(&d->desk, "began", (PyObject *)r) == 0)) {
            if (in_thread)
                gb_span_measure_thread(&r->base, true);
            r->base.start_ns = (long long)gb_monotonic_ns();
            return r;
        }
        gb_span_leave(&d->desk, &r->base);
        Py_DECREF(r);
    }
    *failed = PyErr_Occurred() && gb_span_report(&d->desk, "spans.request") < 0;
    return NULL;
}

/* begin(name, environ, in_thread) */
static PyObject *
desk_begin(PyObject *self, PyObject *const *args, Py_ssize_t n)
{
    if (n != 3 || !PyUnicode_CheckExact(args[0])) {
        PyErr_SetString(PyExc_TypeError, "begin() needs a name, what the server hands in, and a bool.");
        return NULL;
    }
    bool failed;
    gb_request *r = gb_request_begin((gb_request_desk *)self, args[0], args[1], args[2] == Py_True, &failed);
    return r == NULL && !failed ? Py_NewRef(Py_None) : (PyObject *)r;
}

/* Names the request by its route. */
static int
name_request(gb_request *r, PyObject *route)
{
    if (gb_is_text(r->route, route))
        return 0; /* told twice, by a class and the one it is derived from */
    bool is_named = PyUnicode_GET_LENGTH(route) > 0;
    PyObject *name = is_named ? PyUnicode_FromFormat("%U %U", r->method, route) : Py_NewRef(r->method);
    if (name == NULL)
        return -1;
    Py_XSETREF(r->route, Py_NewRef(route));
    Py_SETREF(r->base.name, name);
    /* What was before the request is restored by the first token; the second is not needed. */
    PyObject *token = r->base.token;
    r->base.token = NULL;
    int status = gb_span_label(&r->desk->desk, &r->base);
    if (token != NULL)
        Py_XSETREF(r->base.token, token);
    return status;
}

/* route: with the prefix of mounts, a new reference of the caller's. */
static int
tell_route(gb_request_desk *d, PyObject *current, PyObject *route)
{
    if (Py_TYPE(current) == request_type && !is_set(((gb_request *)current)->otel))
        return name_request((gb_request *)current, route);
    PyObject *done = PyObject_CallMethod(d->desk.host, "named", "OO", current, route);
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

static PyObject *
with_prefix(gb_span_record *r, PyObject *path)
{
    return is_set(r->prefix) ? PyUnicode_Concat(r->prefix, path) : Py_NewRef(path);
}

/* known(path), mounted(path) */
static PyObject *
learn(PyObject *self, PyObject *path, bool is_mount)
{
    gb_request_desk *d = (gb_request_desk *)self;
    PyObject *current = gb_span_request_now(&d->desk), *route = NULL;
    int status = current == NULL ? -1 : 0;
    if (current != NULL && current != Py_None && PyUnicode_CheckExact(path)) {
        gb_span_record *r = (gb_span_record *)current;
        route = with_prefix(r, path);
        if (route != NULL && is_mount) {
            Py_XSETREF(r->prefix, route);
            route = PyUnicode_Concat(route, str_any_path); /* what is mounted need not have routes */
        }
        status = route == NULL ? -1 : tell_route(d, current, route);
        Py_XDECREF(route);
    }
    Py_XDECREF(current);
    if (status < 0)
        status = gb_span_report(&d->desk, "spans.request");
    return status < 0 ? NULL : Py_NewRef(Py_None);
}

static PyObject *
desk_known(PyObject *self, PyObject *path)
{
    return learn(self, path, false);
}

static PyObject *
desk_mounted(PyObject *self, PyObject *path)
{
    return learn(self, path, true);
}

static PyMemberDef desk_members[] = {
    {"requests", T_ULONGLONG, offsetof(gb_request_desk, requests), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyMethodDef desk_methods[] = {
    {"begin", (PyCFunction)(void (*)(void))desk_begin, METH_FASTCALL, NULL},
    {"open", (PyCFunction)(void (*)(void))gb_request_open, METH_FASTCALL, NULL},
    {"known", desk_known, METH_O, NULL},
    {"mounted", desk_mounted, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot desk_slots[] = {
    {Py_tp_doc, (void *)(uintptr_t)"Where requests are written down. See _native.pyi."},
    {Py_tp_new, (void *)(uintptr_t)desk_new},
    {Py_tp_traverse, (void *)(uintptr_t)desk_traverse},
    {Py_tp_clear, (void *)(uintptr_t)desk_clear},
    {Py_tp_dealloc, (void *)(uintptr_t)gb_span_gc_dealloc},
    {Py_tp_members, desk_members},
    {Py_tp_methods, desk_methods},
    {0, NULL},
};

static PyType_Spec desk_spec = {
    .name = "glassbottom._native.RequestDesk",
    .basicsize = sizeof(gb_request_desk),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = desk_slots,
};

int
gb_requests_add_types(PyObject *module)
{
    static const struct {
        PyObject **to;
        const char *text;
    } TEXTS[] = {
        {&gb_str_websocket, "WS"},     {&str_server, "SERVER"},    {&str_consumer, "CONSUMER"},
        {&str_cancelled, "cancelled"}, {&str_any_path, "/{path}"},
    };
    for (size_t i = 0; i < sizeof(TEXTS) / sizeof(*TEXTS); i++) {
        if (gb_intern(TEXTS[i].to, TEXTS[i].text) < 0)
            return -1;
    }
    return gb_span_add_type(module, &request_spec, gb_span_record_type, &request_type) < 0
                   || gb_doors_add_type(module) < 0 || gb_span_add_type(module, &desk_spec, NULL, NULL) < 0
               ? -1
               : 0;
}
