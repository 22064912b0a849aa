/* spans.c: what is done at the start and at the end of every span of OpenTelemetry's.
 *
 * A span processor runs in the application's way twice per span, so it is here and not in Python: half a microsecond
 * instead of five. It keeps a record for each open span, in a dict by span id, with a weak reference to the span; adds
 * the time in which children ran to their parent; and counts the duration in the histogram for the span's name, kind,
 * status, route and target. What is rare is asked of a Python object, the host (spans/otel.py): a new name, a new
 * combination, a request that begins, a span that is slow.
 *
 * Of a span it reads the fields. Everything is under the GIL, and nothing raises into the application: what fails is
 * told to the host.
 */
#include "core.h"

#include <stddef.h>
#include <structmember.h>
#include <sys/resource.h>

#define CPU_ALWAYS_NS 50000.0 /* from this mean on asking for CPU time costs 3 % at most */
#define CPU_ONE_IN 16u        /* shorter spans are asked so often: the system calls take longer than all the rest */

enum { FIELD_CONTEXT, FIELD_PARENT, FIELD_KIND, FIELD_NAME, FIELD_START, START_FIELDS };
enum { END_CONTEXT, END_NAME, END_KIND, END_TIME, END_STATUS, END_ATTRIBUTES, END_FIELDS };
static const char *const START_NAMES[START_FIELDS] = {"_context", "_parent", "_kind", "_name", "_start_time"};
static const char *const END_NAMES[END_FIELDS] = {"_context", "_name", "_kind", "_end_time", "_status", "_attributes"};
static PyObject *start_fields[START_FIELDS], *end_fields[END_FIELDS];
/* Whom a span calls: the first of the services, or else the host and the port below it. */
enum { CALLED_SERVICES = 4, CALLED_HOSTS = 2 };
static const char *const SERVICE_NAMES[CALLED_SERVICES] = {"peer.service", "db.system.name", "db.system",
                                                           "messaging.system"};
static const char *const HOST_NAMES[CALLED_HOSTS][2] = {{"server.address", "server.port"},
                                                        {"net.peer.name", "net.peer.port"}};
static PyObject *service_keys[CALLED_SERVICES], *host_keys[CALLED_HOSTS][2];
static PyObject *str_dict, *str_name, *str_enum_name, *str_status_code, *str_empty, *str_ok, *str_error;

static PyTypeObject *record_type, *name_type;

/* ---- a span that is open ------------------------------------------------------------------------------------------ */

/* spans/open_spans.py says what each field means; a request of our own is a subclass. */
typedef struct record {
    PyObject_HEAD PyObject *span, *name, *above, *entry, *token, *request_token, *place, *prefix;
    long long start_ns, covered_ns, since_ns, cpu_user_ns, cpu_system_ns;
    double allocated;
    unsigned long thread;
    int children;
    char has_cpu, done;
} record;

static PyMemberDef record_members[] = {
    {"span", T_OBJECT, offsetof(record, span), 0, NULL},
    {"name", T_OBJECT, offsetof(record, name), 0, NULL},
    {"above", T_OBJECT, offsetof(record, above), 0, NULL},
    {"entry", T_OBJECT, offsetof(record, entry), 0, NULL},
    {"token", T_OBJECT, offsetof(record, token), 0, NULL},
    {"place", T_OBJECT, offsetof(record, place), 0, NULL},
    {"prefix", T_OBJECT, offsetof(record, prefix), 0, NULL},
    {"done", T_BOOL, offsetof(record, done), 0, NULL},
    {"start_ns", T_LONGLONG, offsetof(record, start_ns), 0, NULL},
    {"covered_ns", T_LONGLONG, offsetof(record, covered_ns), 0, NULL},
    {"since_ns", T_LONGLONG, offsetof(record, since_ns), 0, NULL},
    {"children", T_INT, offsetof(record, children), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static int
record_traverse(PyObject *self, visitproc visit, void *arg)
{
    record *r = (record *)self;
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(r->span);
    Py_VISIT(r->above);
    Py_VISIT(r->entry);
    Py_VISIT(r->token);
    Py_VISIT(r->request_token);
    Py_VISIT(r->place);
    return 0;
}

static int
record_clear(PyObject *self)
{
    record *r = (record *)self;
    Py_CLEAR(r->span);
    Py_CLEAR(r->name);
    Py_CLEAR(r->above);
    Py_CLEAR(r->entry);
    Py_CLEAR(r->token);
    Py_CLEAR(r->request_token);
    Py_CLEAR(r->place);
    Py_CLEAR(r->prefix);
    return 0;
}

static void
gc_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    type->tp_clear(self);
    type->tp_free(self);
    Py_DECREF(type);
}

static record *
as_record(PyObject *object)
{
    return object != NULL && PyObject_TypeCheck(object, record_type) ? (record *)object : NULL;
}

static void
read_cpu(record *r, bool is_wanted)
{
#ifdef RUSAGE_THREAD
    struct rusage usage;
    r->has_cpu = is_wanted && getrusage(RUSAGE_THREAD, &usage) == 0;
    if (r->has_cpu) {
        r->cpu_user_ns = usage.ru_utime.tv_sec * 1000000000LL + usage.ru_utime.tv_usec * 1000LL;
        r->cpu_system_ns = usage.ru_stime.tv_sec * 1000000000LL + usage.ru_stime.tv_usec * 1000LL;
    }
#else
    (void)is_wanted;
    r->has_cpu = 0;
#endif
}

static double
allocated_bytes(void)
{
    if (!atomic_load_explicit(&gb_sampling, memory_order_relaxed))
        return 0.0;
    return (double)(gb_tls.raw_drawn - gb_tls.raw_left) + gb_tls.small_sampled;
}

/* This thread works on nothing but this from now on. */
static void
measure_thread(record *r, bool with_cpu)
{
    r->thread = PyThread_get_thread_ident();
    r->allocated = allocated_bytes();
    read_cpu(r, with_cpu);
}

/* Counts it, with what its thread took where that is known. */
static void
count(record *r, PyObject *table, int64_t slot, long long duration_ns, long long own_ns)
{
    int64_t user_ns = -1, system_ns = -1;
    double allocated = 0.0;
    if (r->thread != 0 && r->thread == PyThread_get_thread_ident()) {
        allocated = allocated_bytes() - r->allocated;
        if (r->has_cpu) {
            record now = {0};
            read_cpu(&now, true);
            user_ns = now.cpu_user_ns - r->cpu_user_ns;
            system_ns = now.cpu_system_ns - r->cpu_system_ns;
            user_ns = user_ns < 0 ? 0 : user_ns; /* the kernel divides the sum between them anew each time */
        }
    }
    gb_operation_record(table, slot, duration_ns, own_ns, user_ns, system_ns, 0, allocated);
}

/* Restores the context, unless it ends in another one: there its name never was. */
static void
leave(record *r, PyObject *label, PyObject *request)
{
    PyObject *variables[2] = {label, request}, **tokens[2] = {&r->token, &r->request_token};
    for (int i = 0; i < 2; i++) {
        PyObject *token = *tokens[i];
        if (token == NULL)
            continue;
        if (PyContextToken_CheckExact(token) && PyContextVar_Reset(variables[i], token) < 0)
            PyErr_Clear();
        Py_CLEAR(*tokens[i]); /* it holds the context, and the request token this record */
    }
}

/* Requests of our own: begin(label, number, request, in_thread), count(table, slot, duration_ns, own_ns),
 * leave(label, request). */

static PyObject *
record_begin(PyObject *self, PyObject *const *args, Py_ssize_t n)
{
    record *r = (record *)self;
    if (n != 4 || !PyContextVar_CheckExact(args[0]) || !PyLong_CheckExact(args[1])
        || !PyContextVar_CheckExact(args[2])) {
        PyErr_SetString(PyExc_TypeError, "begin() needs a context variable, a label, a context variable, a bool.");
        return NULL;
    }
    if (PyLong_AsLong(args[1]) != 0)
        Py_XSETREF(r->token, PyContextVar_Set(args[0], args[1]));
    if (PyErr_Occurred())
        return NULL;
    Py_XSETREF(r->request_token, PyContextVar_Set(args[2], self));
    if (r->request_token == NULL)
        return NULL;
    if (args[3] == Py_True)
        measure_thread(r, true);
    r->start_ns = (long long)gb_monotonic_ns();
    Py_RETURN_NONE;
}

static PyObject *
record_count(PyObject *self, PyObject *const *args, Py_ssize_t n)
{
    if (n != 4 || (args[0] != Py_None && !gb_operations_check(args[0]))) {
        PyErr_SetString(PyExc_TypeError, "count() needs an OperationTable, a slot, and two durations.");
        return NULL;
    }
    long long values[3];
    for (int i = 0; i < 3; i++) {
        values[i] = PyLong_AsLongLong(args[1 + i]);
        if (values[i] == -1 && PyErr_Occurred())
            return NULL;
    }
    if (args[0] != Py_None)
        count((record *)self, args[0], values[0], values[1], values[2]);
    Py_RETURN_NONE;
}

static PyObject *
record_leave(PyObject *self, PyObject *const *args, Py_ssize_t n)
{
    if (n != 2 || !PyContextVar_CheckExact(args[0]) || !PyContextVar_CheckExact(args[1])) {
        PyErr_SetString(PyExc_TypeError, "leave() needs two context variables.");
        return NULL;
    }
    leave((record *)self, args[0], args[1]);
    Py_RETURN_NONE;
}

static PyMethodDef record_methods[] = {
    {"begin", (PyCFunction)(void (*)(void))record_begin, METH_FASTCALL, NULL},
    {"count", (PyCFunction)(void (*)(void))record_count, METH_FASTCALL, NULL},
    {"leave", (PyCFunction)(void (*)(void))record_leave, METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot record_slots[] = {
    {Py_tp_doc, (void *)(uintptr_t)"A span that is open. See _native.pyi."},
    {Py_tp_new, (void *)(uintptr_t)PyType_GenericNew},
    {Py_tp_traverse, (void *)(uintptr_t)record_traverse},
    {Py_tp_clear, (void *)(uintptr_t)record_clear},
    {Py_tp_dealloc, (void *)(uintptr_t)gc_dealloc},
    {Py_tp_members, record_members},
    {Py_tp_methods, record_methods},
    {0, NULL},
};

static PyType_Spec record_spec = {
    .name = "glassbottom._native.SpanRecord",
    .basicsize = sizeof(record),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE,
    .slots = record_slots,
};

/* ---- a name ------------------------------------------------------------------------------------------------------- */

typedef struct {
    PyObject_HEAD PyObject *name, *slots; /* slots: dict, (kind, status, route, target) to slot */
    long long count, floor_ns, limit_ns;
    double mean_ns;
} span_name;

static PyMemberDef name_members[] = {
    {"name", T_OBJECT, offsetof(span_name, name), READONLY, NULL},
    {"slots", T_OBJECT, offsetof(span_name, slots), READONLY, NULL},
    {"count", T_LONGLONG, offsetof(span_name, count), 0, NULL},
    {"floor_ns", T_LONGLONG, offsetof(span_name, floor_ns), 0, NULL},
    {"limit_ns", T_LONGLONG, offsetof(span_name, limit_ns), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyObject *
name_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    (void)kwargs;
    PyObject *name;
    long long slow_ns;
    if (!PyArg_ParseTuple(args, "UL", &name, &slow_ns))
        return NULL;
    span_name *n = (span_name *)type->tp_alloc(type, 0);
    if (n == NULL)
        return NULL;
    n->name = Py_NewRef(name);
    n->slots = PyDict_New();
    n->limit_ns = slow_ns;
    n->floor_ns = slow_ns / 10;
    if (n->slots == NULL)
        Py_CLEAR(n);
    return (PyObject *)n;
}

static int
name_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(((span_name *)self)->slots);
    return 0;
}

static int
name_clear(PyObject *self)
{
    span_name *n = (span_name *)self;
    Py_CLEAR(n->name);
    Py_CLEAR(n->slots);
    return 0;
}

static PyType_Slot name_slots[] = {
    {Py_tp_doc, (void *)(uintptr_t)"What is known of one span name. See _native.pyi."},
    {Py_tp_new, (void *)(uintptr_t)name_new},
    {Py_tp_traverse, (void *)(uintptr_t)name_traverse},
    {Py_tp_clear, (void *)(uintptr_t)name_clear},
    {Py_tp_dealloc, (void *)(uintptr_t)gc_dealloc},
    {Py_tp_members, name_members},
    {0, NULL},
};

static PyType_Spec name_spec = {
    .name = "glassbottom._native.SpanName",
    .basicsize = sizeof(span_name),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE,
    .slots = name_slots,
};

/* ---- the listener ------------------------------------------------------------------------------------------------- */

enum { KIND_SERVER, KIND_CONSUMER, KIND_CLIENT, KIND_PRODUCER, KINDS };

typedef struct {
    PyObject_HEAD PyObject *host, *table, *records, *names, *suspects, *numbers, *label, *request, *running_loop,
        *failed;
    PyObject *kinds[KINDS];
    Py_ssize_t open_max;
} listener;

static PyObject *
listener_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"host",    "table",        "records", "names", "suspects", "numbers", "label",
                            "request", "running_loop", "failed",  "kinds", "open_max", NULL};
    PyObject *o[10], *kinds;
    Py_ssize_t open_max;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "$OOO!O!O!O!OOOOO!n", names, &o[0], &o[1], &PyDict_Type, &o[2],
                                     &PyDict_Type, &o[3], &PyDict_Type, &o[4], &PyDict_Type, &o[5], &o[6], &o[7], &o[8],
                                     &o[9], &PyTuple_Type, &kinds, &open_max))
        return NULL;
    if (!gb_operations_check(o[1]) || !PyContextVar_CheckExact(o[6]) || !PyContextVar_CheckExact(o[7])
        || PyTuple_GET_SIZE(kinds) != KINDS) {
        PyErr_SetString(PyExc_TypeError, "SpanListener() needs an OperationTable, two context variables, four kinds.");
        return NULL;
    }
    listener *l = (listener *)type->tp_alloc(type, 0);
    if (l == NULL)
        return NULL;
    PyObject **to[] = {&l->host,    &l->table, &l->records, &l->names,        &l->suspects,
                       &l->numbers, &l->label, &l->request, &l->running_loop, &l->failed};
    for (size_t i = 0; i < sizeof(to) / sizeof(*to); i++)
        *to[i] = Py_NewRef(o[i]);
    for (Py_ssize_t i = 0; i < KINDS; i++)
        l->kinds[i] = Py_NewRef(PyTuple_GET_ITEM(kinds, i));
    l->open_max = open_max;
    return (PyObject *)l;
}

static int
listener_traverse(PyObject *self, visitproc visit, void *arg)
{
    listener *l = (listener *)self;
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(l->host);
    Py_VISIT(l->table);
    Py_VISIT(l->records);
    Py_VISIT(l->names);
    Py_VISIT(l->suspects);
    Py_VISIT(l->numbers);
    Py_VISIT(l->label);
    Py_VISIT(l->request);
    Py_VISIT(l->running_loop);
    Py_VISIT(l->failed);
    for (int i = 0; i < KINDS; i++)
        Py_VISIT(l->kinds[i]);
    return 0;
}

static int
listener_clear(PyObject *self)
{
    listener *l = (listener *)self;
    Py_CLEAR(l->host);
    Py_CLEAR(l->table);
    Py_CLEAR(l->records);
    Py_CLEAR(l->names);
    Py_CLEAR(l->suspects);
    Py_CLEAR(l->numbers);
    Py_CLEAR(l->label);
    Py_CLEAR(l->request);
    Py_CLEAR(l->running_loop);
    Py_CLEAR(l->failed);
    for (int i = 0; i < KINDS; i++)
        Py_CLEAR(l->kinds[i]);
    return 0;
}

/* Tells the host what went wrong, and forgets it. */
static void
report(listener *l, const char *where)
{
    PyObject *type, *value, *trace;
    PyErr_Fetch(&type, &value, &trace);
    PyErr_NormalizeException(&type, &value, &trace);
    PyObject *said = PyObject_CallMethod(l->host, "failed", "sO", where, value == NULL ? Py_None : value);
    if (said == NULL)
        PyErr_Clear();
    Py_XDECREF(said);
    Py_XDECREF(type);
    Py_XDECREF(value);
    Py_XDECREF(trace);
}

static int
read_fields(PyObject *span, PyObject *const *names, PyObject **found, int count_)
{
    memset(found, 0, sizeof(*found) * (size_t)count_);
    for (int i = 0; i < count_; i++) {
        found[i] = PyObject_GetAttr(span, names[i]);
        if (found[i] == NULL)
            return -1;
    }
    return 0;
}

static void
release_fields(PyObject **found, int count_)
{
    for (int i = 0; i < count_; i++)
        Py_XDECREF(found[i]);
}

/* The id in a span context, borrowed; NULL for none, and for the span of another process. */
static PyObject *
id_of(PyObject *context, bool is_local)
{
    if (!PyTuple_Check(context) || PyTuple_GET_SIZE(context) < 3
        || (is_local && PyTuple_GET_ITEM(context, 2) != Py_False))
        return NULL;
    return PyTuple_GET_ITEM(context, 1);
}

static int
call_host(listener *l, const char *method, PyObject *argument)
{
    PyObject *done = PyObject_CallMethod(l->host, method, argument == NULL ? NULL : "O", argument);
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

/* Labels the context with the span's name. */
static int
label(listener *l, record *r)
{
    PyObject *number = PyDict_GetItemWithError(l->numbers, r->name);
    if (number != NULL)
        Py_INCREF(number);
    else if (PyErr_Occurred() || (number = PyObject_CallMethod(l->host, "number", "O", r->name)) == NULL)
        return -1;
    if (PyLong_CheckExact(number) && PyLong_AsLong(number) != 0)
        r->token = PyContextVar_Set(l->label, number);
    Py_DECREF(number);
    return PyErr_Occurred() ? -1 : 0;
}

/* The request that the context works on, a new reference, Py_None for none. */
static PyObject *
request_now(listener *l)
{
    PyObject *request = NULL;
    if (PyContextVar_Get(l->request, Py_None, &request) < 0)
        return NULL;
    record *r = as_record(request);
    if (r == NULL || r->done)
        Py_SETREF(request, Py_NewRef(Py_None));
    return request;
}

/* A request, or the like, begins. The host looks at one within another. */
static int
enter(listener *l, record *r)
{
    PyObject *request = request_now(l);
    if (request == NULL)
        return -1;
    bool is_first = request == Py_None;
    Py_DECREF(request);
    if (!is_first)
        return call_host(l, "enter", (PyObject *)r);
    if (label(l, r) < 0)
        return -1;
    r->request_token = PyContextVar_Set(l->request, (PyObject *)r);
    return r->request_token == NULL ? -1 : 0;
}

/* A CLIENT or PRODUCER span: a call to somebody else. */
static bool
is_outgoing(listener *l, PyObject *kind)
{
    return kind == l->kinds[KIND_CLIENT] || kind == l->kinds[KIND_PRODUCER];
}

/* A span without a parent here. Mostly nothing else is known of its context, and it becomes the label itself, unless it
 * is a mere call; the host looks at the other cases. */
static int
outermost(listener *l, record *r, PyObject *kind)
{
    PyObject *request = request_now(l), *number = NULL;
    if (request == NULL || PyContextVar_Get(l->label, NULL, &number) < 0) {
        Py_XDECREF(request);
        return -1;
    }
    bool is_alone = request == Py_None && (number == NULL || (PyLong_CheckExact(number) && PyLong_AsLong(number) == 0));
    Py_DECREF(request);
    Py_XDECREF(number);
    if (is_alone)
        return is_outgoing(l, kind) ? 0 : label(l, r);
    return call_host(l, "outermost", (PyObject *)r);
}

/* Whether to ask for CPU time: by the digits of the id and what spans of that name took before, so that it does not
 * depend on how long this one takes. */
static bool
asks_cpu(listener *l, PyObject *name, PyObject *span_id)
{
    PyObject *known = PyDict_GetItemWithError(l->names, name);
    if (known != NULL && PyObject_TypeCheck(known, name_type) && ((span_name *)known)->mean_ns >= CPU_ALWAYS_NS)
        return true;
    return PyLong_AsUnsignedLongLongMask(span_id) % CPU_ONE_IN == 0;
}

static int
fill(listener *l, record *r, PyObject *span, PyObject *const *field)
{
    r->span = PyWeakref_NewRef(span, NULL);
    r->name = Py_NewRef(field[FIELD_NAME]);
    r->start_ns = PyLong_AsLongLong(field[FIELD_START]);
    if (r->span == NULL || (r->start_ns == -1 && PyErr_Occurred()))
        return -1;
    PyObject *kind = field[FIELD_KIND];
    bool is_entry = kind == l->kinds[KIND_SERVER] || kind == l->kinds[KIND_CONSUMER];
    PyObject *parent_id = id_of(field[FIELD_PARENT], true);
    PyObject *parent = parent_id == NULL ? NULL : PyDict_GetItemWithError(l->records, parent_id);
    if (parent == NULL && PyErr_Occurred())
        return -1;
    record *above = as_record(parent);
    if (above != NULL) {
        r->above = Py_NewRef((PyObject *)above);
        if (!is_entry)
            r->entry = Py_NewRef(above->entry != NULL ? above->entry : (PyObject *)above);
        if (above->children++ == 0)
            above->since_ns = r->start_ns;
    }
    if ((is_entry ? enter(l, r) : above == NULL ? outermost(l, r, kind) : 0) < 0)
        return -1;
    if (PyDict_GET_SIZE(l->suspects) > 0) {
        int is_suspect = PyDict_Contains(l->suspects, r->name);
        if (is_suspect < 0)
            return -1;
        if (is_suspect && (r->place = PyObject_CallMethod(l->host, "place", "(O)", r->name)) == NULL)
            return -1;
    }
    PyObject *span_id = id_of(field[FIELD_CONTEXT], false);
    if (span_id == NULL) {
        PyErr_SetString(PyExc_TypeError, "A span without a context.");
        return -1;
    }
    PyObject *loop = PyObject_CallNoArgs(l->running_loop);
    if (loop == NULL)
        return -1;
    /* Where a loop runs, the thread works on other things meanwhile. */
    if (loop == Py_None)
        measure_thread(r, asks_cpu(l, r->name, span_id));
    Py_DECREF(loop);
    return PyErr_Occurred() ? -1 : PyDict_SetItem(l->records, span_id, (PyObject *)r);
}

/* on_start(span, parent_context=None) */
static PyObject *
listener_start(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *keywords)
{
    (void)keywords;
    listener *l = (listener *)self;
    PyObject *field[START_FIELDS];
    if (n < 1)
        Py_RETURN_NONE;
    PyObject *made = NULL;
    int status = read_fields(args[0], start_fields, field, START_FIELDS);
    if (status == 0 && PyDict_GET_SIZE(l->records) >= l->open_max)
        status = call_host(l, "make_room", NULL);
    if (status == 0)
        made = record_type->tp_alloc(record_type, 0);
    if (made == NULL || fill(l, (record *)made, args[0], field) < 0)
        report(l, "spans.start");
    Py_XDECREF(made);
    release_fields(field, START_FIELDS);
    Py_RETURN_NONE;
}

/* The name of the entry span now, a new reference. */
static PyObject *
route_of(record *r)
{
    record *entry = as_record(r->entry);
    if (entry == NULL)
        return Py_NewRef(str_empty);
    if (entry->span != NULL && entry->span != Py_None) {
        PyObject *span = PyObject_CallNoArgs(entry->span);
        if (span == NULL)
            return NULL;
        PyObject *name = span == Py_None ? NULL : PyObject_GetAttr(span, str_name);
        bool is_gone = span == Py_None;
        Py_DECREF(span);
        if (!is_gone)
            return name;
    }
    return Py_NewRef(entry->name == NULL ? str_empty : entry->name);
}

/* Time in which no child ran; and the parent's account. */
static long long
own_ns(record *r, long long ended_ns, long long duration_ns)
{
    long long covered_ns = r->covered_ns + (r->children > 0 ? ended_ns - r->since_ns : 0);
    record *above = as_record(r->above);
    if (above != NULL && above->children > 0 && --above->children == 0)
        above->covered_ns += ended_ns > above->since_ns ? ended_ns - above->since_ns : 0;
    return covered_ns < 0 ? duration_ns : covered_ns > duration_ns ? 0 : duration_ns - covered_ns;
}

static span_name *
name_of(listener *l, PyObject *name)
{
    PyObject *found = PyDict_GetItemWithError(l->names, name);
    if (found != NULL)
        Py_INCREF(found);
    else if (!PyErr_Occurred())
        found = PyObject_CallMethod(l->host, "name", "O", name);
    if (found != NULL && !PyObject_TypeCheck(found, name_type)) {
        Py_DECREF(found);
        PyErr_SetString(PyExc_TypeError, "name() must return a SpanName.");
        return NULL;
    }
    return (span_name *)found;
}

static int
slot_of(listener *l, span_name *name, PyObject *kind, PyObject *status, PyObject *route, PyObject *target,
        int64_t *slot)
{
    PyObject *key = PyTuple_Pack(4, kind, status, route, target);
    if (key == NULL)
        return -1;
    PyObject *found = PyDict_GetItemWithError(name->slots, key);
    if (found != NULL)
        Py_INCREF(found);
    else if (!PyErr_Occurred())
        found = PyObject_CallMethod(l->host, "slot", "OOOOO", name, kind, status, route, target);
    Py_DECREF(key);
    if (found == NULL)
        return -1;
    *slot = PyLong_AsLongLong(found);
    Py_DECREF(found);
    return PyErr_Occurred() ? -1 : 0;
}

/* Of a CLIENT or PRODUCER span: "postgresql", "payments:443"; empty when unknown. */
static PyObject *
target_of(PyObject *attributes)
{
    /* What BoundedAttributes wraps: its own look-up raises and catches for each name that is missing. */
    PyObject *found = NULL, *dict = PyObject_GetAttr(attributes, str_dict);
    if (dict == NULL)
        PyErr_Clear();
    PyObject *in = dict != NULL ? dict : attributes;
    if (PyDict_Check(in)) {
        for (int i = 0; i < CALLED_SERVICES && found == NULL && !PyErr_Occurred(); i++) {
            PyObject *service = PyDict_GetItemWithError(in, service_keys[i]);
            found = service == NULL ? NULL : PyObject_Str(service);
        }
        for (int i = 0; i < CALLED_HOSTS && found == NULL && !PyErr_Occurred(); i++) {
            PyObject *host = PyDict_GetItemWithError(in, host_keys[i][0]);
            PyObject *port = host == NULL ? NULL : PyDict_GetItemWithError(in, host_keys[i][1]);
            if (host != NULL && !PyErr_Occurred())
                found = port == NULL ? PyObject_Str(host) : PyUnicode_FromFormat("%S:%S", host, port);
        }
    }
    Py_XDECREF(dict);
    return found != NULL || PyErr_Occurred() ? found : Py_NewRef(str_empty);
}

static int
is_error(listener *l, PyObject *status)
{
    PyObject *code = PyObject_GetAttr(status, str_status_code);
    Py_XDECREF(code);
    return code == NULL ? -1 : code == l->failed;
}

/* The record's last moments: everything but reading the span and taking the record out. */
static int
finish(listener *l, record *r, PyObject *span, PyObject *const *field)
{
    long long ended_ns = PyLong_AsLongLong(field[END_TIME]);
    if (ended_ns == -1 && PyErr_Occurred())
        return -1;
    /* The clock may have been set back. */
    long long duration_ns = ended_ns > r->start_ns ? ended_ns - r->start_ns : 0;
    long long own = own_ns(r, ended_ns, duration_ns);
    Py_SETREF(r->name, Py_NewRef(field[END_NAME]));
    PyObject *kind = field[END_KIND];
    int failed = is_error(l, field[END_STATUS]);
    r->done = 1;
    leave(r, l->label, l->request);
    if (failed < 0)
        return -1;
    PyObject *kind_name = NULL, *route = NULL, *target = NULL;
    span_name *name = NULL;
    int64_t slot = -1;
    int done = -1;
    PyObject *status = failed ? str_error : str_ok;
    if ((kind_name = PyObject_GetAttr(kind, str_enum_name)) != NULL && (route = route_of(r)) != NULL
        && (name = name_of(l, field[END_NAME])) != NULL
        && (target = is_outgoing(l, kind) ? target_of(field[END_ATTRIBUTES]) : Py_NewRef(str_empty)) != NULL
        && slot_of(l, name, kind_name, status, route, target, &slot) == 0) {
        count(r, l->table, slot, duration_ns, own);
        name->count++;
        name->mean_ns += ((double)duration_ns - name->mean_ns) / (name->count < 8 ? (double)name->count : 8.0);
        done = 0;
        if (duration_ns > name->floor_ns) {
            PyObject *told =
                PyObject_CallMethod(l->host, "slow", "OLLOOO", name, duration_ns, own, status, route, span);
            done = told == NULL ? -1 : 0;
            Py_XDECREF(told);
        }
    }
    Py_XDECREF(kind_name);
    Py_XDECREF(route);
    Py_XDECREF(target);
    Py_XDECREF((PyObject *)name);
    return done;
}

/* The record of a span that ends, out of the table; NULL when there is none, or with an exception. */
static record *
take(listener *l, PyObject *context)
{
    PyObject *span_id = id_of(context, false);
    PyObject *found = span_id == NULL ? NULL : PyDict_GetItemWithError(l->records, span_id);
    if (found == NULL)
        return NULL;
    Py_INCREF(found);
    if (PyDict_DelItem(l->records, span_id) < 0 || as_record(found) == NULL)
        Py_CLEAR(found);
    return (record *)found;
}

/* on_end(span) */
static PyObject *
listener_end(PyObject *self, PyObject *span)
{
    listener *l = (listener *)self;
    PyObject *field[END_FIELDS];
    record *r = NULL;
    int status = read_fields(span, end_fields, field, END_FIELDS);
    if (status == 0 && (r = take(l, field[END_CONTEXT])) != NULL)
        status = finish(l, r, span, field);
    else if (PyErr_Occurred())
        status = -1;
    if (status < 0)
        report(l, "spans.end");
    Py_XDECREF((PyObject *)r);
    release_fields(field, END_FIELDS);
    Py_RETURN_NONE;
}

static PyMethodDef listener_methods[] = {
    {"on_start", (PyCFunction)(void (*)(void))listener_start, METH_FASTCALL | METH_KEYWORDS, NULL},
    {"on_end", listener_end, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot listener_slots[] = {
    {Py_tp_doc, (void *)(uintptr_t)"What is done at the start and the end of spans. See _native.pyi."},
    {Py_tp_new, (void *)(uintptr_t)listener_new},
    {Py_tp_traverse, (void *)(uintptr_t)listener_traverse},
    {Py_tp_clear, (void *)(uintptr_t)listener_clear},
    {Py_tp_dealloc, (void *)(uintptr_t)gc_dealloc},
    {Py_tp_methods, listener_methods},
    {0, NULL},
};

static PyType_Spec listener_spec = {
    .name = "glassbottom._native.SpanListener",
    .basicsize = sizeof(listener),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = listener_slots,
};

static int
intern(PyObject **to, const char *text)
{
    return *to != NULL || (*to = PyUnicode_InternFromString(text)) != NULL ? 0 : -1;
}

static int
add_type(PyObject *module, PyType_Spec *spec, PyTypeObject **to)
{
    PyObject *type = PyType_FromModuleAndSpec(module, spec, NULL);
    if (type == NULL || PyModule_AddType(module, (PyTypeObject *)type) < 0) {
        Py_XDECREF(type);
        return -1;
    }
    if (to != NULL)
        *to = (PyTypeObject *)type;
    else
        Py_DECREF(type);
    return 0;
}

int
gb_spans_add_types(PyObject *module)
{
    for (int i = 0; i < START_FIELDS; i++) {
        if (intern(&start_fields[i], START_NAMES[i]) < 0)
            return -1;
    }
    for (int i = 0; i < END_FIELDS; i++) {
        if (intern(&end_fields[i], END_NAMES[i]) < 0)
            return -1;
    }
    for (int i = 0; i < CALLED_SERVICES; i++) {
        if (intern(&service_keys[i], SERVICE_NAMES[i]) < 0)
            return -1;
    }
    for (int i = 0; i < CALLED_HOSTS; i++) {
        if (intern(&host_keys[i][0], HOST_NAMES[i][0]) < 0 || intern(&host_keys[i][1], HOST_NAMES[i][1]) < 0)
            return -1;
    }
    if (intern(&str_dict, "_dict") < 0 || intern(&str_name, "_name") < 0 || intern(&str_enum_name, "_name_") < 0
        || intern(&str_status_code, "status_code") < 0 || intern(&str_empty, "") < 0 || intern(&str_ok, "ok") < 0
        || intern(&str_error, "error") < 0)
        return -1;
    return add_type(module, &record_spec, &record_type) < 0 || add_type(module, &name_spec, &name_type) < 0
                   || add_type(module, &listener_spec, NULL) < 0
               ? -1
               : 0;
}
