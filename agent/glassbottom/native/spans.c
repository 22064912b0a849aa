/* spans.c: what is done at the start and at the end of every span of OpenTelemetry's.
 *
 * A span processor runs in the application's way twice per span, so it is here and not in Python: half a microsecond
 * instead of five. It keeps a record for each open span, in a dict by span id, with a weak reference to the span; adds
 * the time in which children ran to their parent; and counts the duration in the histogram for the span's name, kind,
 * status, route and target. What is rare is asked of a Python object, the host (spans/listening.py): a new name, a new
 * combination, a request within another, a span that is slow.
 *
 * Of a span it reads the fields. Everything is under the GIL, and nothing raises into the application: what fails is
 * told to the host.
 */
#include "spans.h"

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
static PyObject *str_dict, *str_name, *str_enum_name, *str_status_code;

/* ---- the listener ------------------------------------------------------------------------------------------------- */

enum { KIND_SERVER, KIND_CONSUMER, KIND_CLIENT, KIND_PRODUCER, KINDS };

typedef struct {
    PyObject_HEAD gb_span_desk desk;
    PyObject *records, *suspects, *running_loop, *failed;
    PyObject *kinds[KINDS];
    Py_ssize_t open_max;
} listener;

static PyObject *
listener_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"host",     "table",        "names",  "numbers", "label",    "request", "records",
                            "suspects", "running_loop", "failed", "kinds",   "open_max", NULL};
    PyObject *o[6], *records, *suspects, *running_loop, *failed, *kinds;
    Py_ssize_t open_max;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "$OOOOOOO!O!OOO!n", names, &o[0], &o[1], &o[2], &o[3], &o[4], &o[5],
                                     &PyDict_Type, &records, &PyDict_Type, &suspects, &running_loop, &failed,
                                     &PyTuple_Type, &kinds, &open_max))
        return NULL;
    if (PyTuple_GET_SIZE(kinds) != KINDS) {
        PyErr_SetString(PyExc_TypeError, "SpanListener() needs four kinds.");
        return NULL;
    }
    listener *l = (listener *)type->tp_alloc(type, 0);
    if (l == NULL)
        return NULL;
    if (gb_span_desk_init(&l->desk, o) < 0) {
        Py_DECREF(l);
        return NULL;
    }
    l->records = Py_NewRef(records);
    l->suspects = Py_NewRef(suspects);
    l->running_loop = Py_NewRef(running_loop);
    l->failed = Py_NewRef(failed);
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
    Py_VISIT(l->records);
    Py_VISIT(l->suspects);
    Py_VISIT(l->running_loop);
    Py_VISIT(l->failed);
    for (int i = 0; i < KINDS; i++)
        Py_VISIT(l->kinds[i]);
    return gb_span_desk_traverse(&l->desk, visit, arg);
}

static int
listener_clear(PyObject *self)
{
    listener *l = (listener *)self;
    Py_CLEAR(l->records);
    Py_CLEAR(l->suspects);
    Py_CLEAR(l->running_loop);
    Py_CLEAR(l->failed);
    for (int i = 0; i < KINDS; i++)
        Py_CLEAR(l->kinds[i]);
    gb_span_desk_clear(&l->desk);
    return 0;
}

static int
read_fields(PyObject *span, PyObject *const *names, PyObject **found, int count)
{
    memset(found, 0, sizeof(*found) * (size_t)count);
    for (int i = 0; i < count; i++) {
        found[i] = PyObject_GetAttr(span, names[i]);
        if (found[i] == NULL)
            return -1;
    }
    return 0;
}

static void
release_fields(PyObject **found, int count)
{
    for (int i = 0; i < count; i++)
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

/* A request, or the like, begins. The host looks at one within another. */
static int
enter(listener *l, gb_span_record *r)
{
    PyObject *request = gb_span_request_now(&l->desk);
    if (request == NULL)
        return -1;
    bool is_first = request == Py_None;
    Py_DECREF(request);
    return is_first ? gb_span_enter(&l->desk, r) : gb_span_call_host(&l->desk, "enter", (PyObject *)r);
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
outermost(listener *l, gb_span_record *r, PyObject *kind)
{
    PyObject *request = gb_span_request_now(&l->desk), *number = NULL;
    if (request == NULL || PyContextVar_Get(l->desk.label, NULL, &number) < 0) {
        Py_XDECREF(request);
        return -1;
    }
    bool is_alone = request == Py_None && (number == NULL || (PyLong_CheckExact(number) && PyLong_AsLong(number) == 0));
    Py_DECREF(request);
    Py_XDECREF(number);
    if (is_alone)
        return is_outgoing(l, kind) ? 0 : gb_span_label(&l->desk, r);
    return gb_span_call_host(&l->desk, "outermost", (PyObject *)r);
}

/* Whether to ask for CPU time: by the digits of the id and what spans of that name took before, so that it does not
 * depend on how long this one takes. */
static bool
asks_cpu(listener *l, PyObject *name, PyObject *span_id)
{
    PyObject *known = PyDict_GetItemWithError(l->desk.names, name);
    if (known != NULL && PyObject_TypeCheck(known, gb_span_name_type)
        && ((gb_span_name *)known)->mean_ns >= CPU_ALWAYS_NS)
        return true;
    return PyLong_AsUnsignedLongLongMask(span_id) % CPU_ONE_IN == 0;
}

static int
fill(listener *l, gb_span_record *r, PyObject *span, PyObject *const *field)
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
    gb_span_record *above = gb_span_as_record(parent);
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
        if (is_suspect && (r->place = PyObject_CallMethod(l->desk.host, "place", "(O)", r->name)) == NULL)
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
        gb_span_measure_thread(r, asks_cpu(l, r->name, span_id));
    Py_DECREF(loop);
    return PyErr_Occurred() ? -1 : PyDict_SetItem(l->records, span_id, (PyObject *)r);
}

/* Beside an exception: takes back what fill() has done so far. */
static void
abandon(listener *l, gb_span_record *r)
{
    PyObject *type, *value, *trace;
    PyErr_Fetch(&type, &value, &trace);
    gb_span_record *above = gb_span_as_record(r->above);
    if (above != NULL && above->children > 0)
        above->children--;
    r->done = 1;
    gb_span_leave(&l->desk, r);
    PyErr_Restore(type, value, trace);
}

/* on_start(span, parent_context=None) */
static PyObject *
listener_start(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *keywords)
{
    (void)keywords;
    listener *l = (listener *)self;
    PyObject *field[START_FIELDS];
    if (n < 1 || l->records == NULL) /* NULL: collected, and called by a finalizer */
        Py_RETURN_NONE;
    PyObject *made = NULL;
    int status = read_fields(args[0], start_fields, field, START_FIELDS);
    if (status == 0 && PyDict_GET_SIZE(l->records) >= l->open_max)
        status = gb_span_call_host(&l->desk, "make_room", NULL);
    if (status == 0)
        made = gb_span_record_type->tp_alloc(gb_span_record_type, 0);
    if (made != NULL && (status = fill(l, (gb_span_record *)made, args[0], field)) < 0)
        abandon(l, (gb_span_record *)made);
    if (made == NULL || status < 0)
        status = gb_span_report(&l->desk, "spans.start");
    Py_XDECREF(made);
    release_fields(field, START_FIELDS);
    return status < 0 ? NULL : Py_NewRef(Py_None);
}

/* The name of the entry span now, a new reference. */
static PyObject *
route_of(gb_span_record *r)
{
    gb_span_record *entry = gb_span_as_record(r->entry);
    if (entry == NULL)
        return Py_NewRef(gb_str_empty);
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
    return Py_NewRef(entry->name == NULL ? gb_str_empty : entry->name);
}

/* Time in which no child ran; and the parent's account. */
static long long
own_ns(gb_span_record *r, long long ended_ns, long long duration_ns)
{
    long long covered_ns = r->covered_ns + (r->children > 0 ? ended_ns - r->since_ns : 0);
    gb_span_record *above = gb_span_as_record(r->above);
    if (above != NULL && above->children > 0 && --above->children == 0)
        above->covered_ns += ended_ns > above->since_ns ? ended_ns - above->since_ns : 0;
    return covered_ns < 0 ? duration_ns : covered_ns > duration_ns ? 0 : duration_ns - covered_ns;
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
            PyObject *service = Py_XNewRef(PyDict_GetItemWithError(in, service_keys[i]));
            found = service == NULL ? NULL : PyObject_Str(service);
            Py_XDECREF(service);
        }
        for (int i = 0; i < CALLED_HOSTS && found == NULL && !PyErr_Occurred(); i++) {
            PyObject *host = Py_XNewRef(PyDict_GetItemWithError(in, host_keys[i][0]));
            PyObject *port = host == NULL ? NULL : Py_XNewRef(PyDict_GetItemWithError(in, host_keys[i][1]));
            if (host != NULL && !PyErr_Occurred())
                found = port == NULL ? PyObject_Str(host) : PyUnicode_FromFormat("%S:%S", host, port);
            Py_XDECREF(host);
            Py_XDECREF(port);
        }
    }
    Py_XDECREF(dict);
    return found != NULL || PyErr_Occurred() ? found : Py_NewRef(gb_str_empty);
}

static int
is_error(listener *l, PyObject *status)
{
    /* The field behind Status.status_code, which is a function in Python. */
    PyObject *code = PyObject_GetAttr(status, str_status_code);
    Py_XDECREF(code);
    return code == NULL ? -1 : code == l->failed;
}

/* The record's last moments: everything but reading the span and taking the record out. */
static int
finish(listener *l, gb_span_record *r, PyObject *span, PyObject *const *field)
{
    long long ended_ns = PyLong_AsLongLong(field[END_TIME]);
    if (ended_ns == -1 && PyErr_Occurred())
        return -1;
    /* The clock may have been set back. */
    long long duration_ns = ended_ns > r->start_ns ? ended_ns - r->start_ns : 0;
    long long own = own_ns(r, ended_ns, duration_ns);
    /* Its children may go on, and theirs; who its own parent was, they need not know. */
    Py_CLEAR(r->above);
    Py_SETREF(r->name, Py_NewRef(field[END_NAME]));
    PyObject *kind = field[END_KIND];
    int failed = is_error(l, field[END_STATUS]);
    r->done = 1;
    gb_span_leave(&l->desk, r);
    if (failed < 0)
        return -1;
    PyObject *kind_name = NULL, *route = NULL, *target = NULL;
    gb_span_name *name = NULL;
    int done = -1;
    PyObject *status = failed ? gb_str_error : gb_str_ok;
    if ((kind_name = PyObject_GetAttr(kind, str_enum_name)) != NULL && (route = route_of(r)) != NULL
        && (target = is_outgoing(l, kind) ? target_of(field[END_ATTRIBUTES]) : Py_NewRef(gb_str_empty)) != NULL
        && (name = gb_span_count(&l->desk, r, r->name, kind_name, status, route, target, duration_ns, own)) != NULL) {
        done = 0;
        if (duration_ns > name->floor_ns) {
            PyObject *told =
                PyObject_CallMethod(l->desk.host, "slow", "OLLOOO", name, duration_ns, own, status, route, span);
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
static gb_span_record *
take(listener *l, PyObject *context)
{
    PyObject *span_id = id_of(context, false);
    PyObject *found = span_id == NULL ? NULL : PyDict_GetItemWithError(l->records, span_id);
    if (found == NULL)
        return NULL;
    Py_INCREF(found);
    if (PyDict_DelItem(l->records, span_id) < 0 || gb_span_as_record(found) == NULL)
        Py_CLEAR(found);
    return (gb_span_record *)found;
}

/* on_end(span) */
static PyObject *
listener_end(PyObject *self, PyObject *span)
{
    listener *l = (listener *)self;
    PyObject *field[END_FIELDS];
    gb_span_record *r = NULL;
    if (l->records == NULL)
        Py_RETURN_NONE;
    int status = read_fields(span, end_fields, field, END_FIELDS);
    if (status == 0 && (r = take(l, field[END_CONTEXT])) != NULL)
        status = finish(l, r, span, field);
    else if (PyErr_Occurred())
        status = -1;
    if (status < 0)
        status = gb_span_report(&l->desk, "spans.end");
    Py_XDECREF((PyObject *)r);
    release_fields(field, END_FIELDS);
    return status < 0 ? NULL : Py_NewRef(Py_None);
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
    {Py_tp_dealloc, (void *)(uintptr_t)gb_span_gc_dealloc},
    {Py_tp_methods, listener_methods},
    {0, NULL},
};

static PyType_Spec listener_spec = {
    .name = "glassbottom._native.SpanListener",
    .basicsize = sizeof(listener),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = listener_slots,
};

int
gb_spans_add_types(PyObject *module)
{
    for (int i = 0; i < START_FIELDS; i++) {
        if (gb_intern(&start_fields[i], START_NAMES[i]) < 0)
            return -1;
    }
    for (int i = 0; i < END_FIELDS; i++) {
        if (gb_intern(&end_fields[i], END_NAMES[i]) < 0)
            return -1;
    }
    for (int i = 0; i < CALLED_SERVICES; i++) {
        if (gb_intern(&service_keys[i], SERVICE_NAMES[i]) < 0)
            return -1;
    }
    for (int i = 0; i < CALLED_HOSTS; i++) {
        if (gb_intern(&host_keys[i][0], HOST_NAMES[i][0]) < 0 || gb_intern(&host_keys[i][1], HOST_NAMES[i][1]) < 0)
            return -1;
    }
    if (gb_intern(&str_dict, "_dict") < 0 || gb_intern(&str_name, "_name") < 0
        || gb_intern(&str_enum_name, "_name_") < 0 || gb_intern(&str_status_code, "_status_code") < 0)
        return -1;
    return gb_span_records_add_types(module) < 0 || gb_span_add_type(module, &listener_spec, NULL, NULL) < 0
                   || gb_requests_add_types(module) < 0
               ? -1
               : 0;
}
