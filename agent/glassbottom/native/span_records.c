/* span_records.c: a span or request that is open, what is known of its name, and where both are written down.
 *
 * Everything is under the GIL, in ordinary calls.
 */
#include "spans.h"

#include <stddef.h>
#include <string.h>
#include <structmember.h>
#include <sys/resource.h>

PyTypeObject *gb_span_record_type, *gb_span_name_type;
static PyTypeObject *ticket_type;
PyObject *gb_str_empty, *gb_str_ok, *gb_str_error;

/* ---- what contexts hold of it ------------------------------------------------------------------------------------- */

static PyObject *
ticket_record(PyObject *self, void *unused)
{
    (void)unused;
    gb_span_record *r = ((gb_span_ticket *)self)->record;
    return Py_NewRef(r == NULL ? Py_None : (PyObject *)r);
}

/* It refers to nothing that it owns, so no cycle runs through it, and the collector need not know it: that is 16 bytes. */
static void
ticket_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyGetSetDef ticket_getset[] = {
    {"record", ticket_record, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot ticket_slots[] = {
    {Py_tp_doc, (void *)(uintptr_t)"What contexts hold of a request. See _native.pyi."},
    {Py_tp_dealloc, (void *)(uintptr_t)ticket_dealloc},
    {Py_tp_getset, ticket_getset},
    {0, NULL},
};

static PyType_Spec ticket_spec = {
    .name = "glassbottom._native.RequestTicket",
    .basicsize = sizeof(gb_span_ticket),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = ticket_slots,
};

static void
drop_ticket(gb_span_record *r)
{
    if (r->ticket != NULL)
        r->ticket->record = NULL;
    Py_CLEAR(r->ticket);
}

/* ---- a span that is open ------------------------------------------------------------------------------------------ */

static PyMemberDef record_members[] = {
    {"span", T_OBJECT, offsetof(gb_span_record, span), 0, NULL},
    {"name", T_OBJECT, offsetof(gb_span_record, name), 0, NULL},
    {"above", T_OBJECT, offsetof(gb_span_record, above), 0, NULL},
    {"entry", T_OBJECT, offsetof(gb_span_record, entry), 0, NULL},
    {"token", T_OBJECT, offsetof(gb_span_record, token), 0, NULL},
    {"place", T_OBJECT, offsetof(gb_span_record, place), 0, NULL},
    {"prefix", T_OBJECT, offsetof(gb_span_record, prefix), 0, NULL},
    {"done", T_BOOL, offsetof(gb_span_record, done), 0, NULL},
    {"start_ns", T_LONGLONG, offsetof(gb_span_record, start_ns), 0, NULL},
    {"covered_ns", T_LONGLONG, offsetof(gb_span_record, covered_ns), 0, NULL},
    {"since_ns", T_LONGLONG, offsetof(gb_span_record, since_ns), 0, NULL},
    {"children", T_INT, offsetof(gb_span_record, children), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

int
gb_span_record_traverse(PyObject *self, visitproc visit, void *arg)
{
    gb_span_record *r = (gb_span_record *)self;
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(r->span);
    Py_VISIT(r->above);
    Py_VISIT(r->entry);
    Py_VISIT(r->token);
    Py_VISIT(r->request_token);
    Py_VISIT(r->place);
    return 0;
}

int
gb_span_record_clear(PyObject *self)
{
    gb_span_record *r = (gb_span_record *)self;
    drop_ticket(r);
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

void
gb_span_gc_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    /* Records refer to those above them: where none of a long chain ever ended, they go one after the other, not one
     * within the other. */
    Py_TRASHCAN_BEGIN(self, gb_span_gc_dealloc) type->tp_clear(self);
    type->tp_free(self);
    Py_DECREF(type);
    Py_TRASHCAN_END
}

gb_span_record *
gb_span_as_record(PyObject *object)
{
    return object != NULL && PyObject_TypeCheck(object, gb_span_record_type) ? (gb_span_record *)object : NULL;
}

static void
read_cpu(gb_span_record *r, bool is_wanted)
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

void
gb_span_measure_thread(gb_span_record *r, bool with_cpu)
{
    r->thread = PyThread_get_thread_ident();
    r->allocated = allocated_bytes();
    read_cpu(r, with_cpu);
}

/* Counts it, with what its thread took where that is known. */
static void
record(gb_span_record *r, PyObject *table, int64_t slot, long long duration_ns, long long own_ns)
{
    int64_t user_ns = -1, system_ns = -1;
    double allocated = 0.0;
    if (r->thread != 0 && r->thread == PyThread_get_thread_ident()) {
        allocated = allocated_bytes() - r->allocated;
        if (r->has_cpu) {
            gb_span_record now = {0};
            read_cpu(&now, true);
            user_ns = now.cpu_user_ns - r->cpu_user_ns;
            system_ns = now.cpu_system_ns - r->cpu_system_ns;
            user_ns = user_ns < 0 ? 0 : user_ns; /* the kernel divides the sum between them anew each time */
        }
    }
    gb_operation_record(table, slot, duration_ns, own_ns, user_ns, system_ns, 0, allocated);
}

static PyType_Slot record_slots[] = {
    {Py_tp_doc, (void *)(uintptr_t)"A span that is open. See _native.pyi."},
    {Py_tp_new, (void *)(uintptr_t)PyType_GenericNew},
    {Py_tp_traverse, (void *)(uintptr_t)gb_span_record_traverse},
    {Py_tp_clear, (void *)(uintptr_t)gb_span_record_clear},
    {Py_tp_dealloc, (void *)(uintptr_t)gb_span_gc_dealloc},
    {Py_tp_members, record_members},
    {0, NULL},
};

static PyType_Spec record_spec = {
    .name = "glassbottom._native.SpanRecord",
    .basicsize = sizeof(gb_span_record),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE,
    .slots = record_slots,
};

/* ---- a name ------------------------------------------------------------------------------------------------------- */

static PyMemberDef name_members[] = {
    {"name", T_OBJECT, offsetof(gb_span_name, name), READONLY, NULL},
    {"slots", T_OBJECT, offsetof(gb_span_name, slots), READONLY, NULL},
    {"count", T_LONGLONG, offsetof(gb_span_name, count), 0, NULL},
    {"floor_ns", T_LONGLONG, offsetof(gb_span_name, floor_ns), 0, NULL},
    {"limit_ns", T_LONGLONG, offsetof(gb_span_name, limit_ns), 0, NULL},
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
    gb_span_name *n = (gb_span_name *)type->tp_alloc(type, 0);
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
    Py_VISIT(((gb_span_name *)self)->slots);
    return 0;
}

static int
name_clear(PyObject *self)
{
    gb_span_name *n = (gb_span_name *)self;
    Py_CLEAR(n->name);
    Py_CLEAR(n->slots);
    for (int i = 0; i < 4; i++)
        Py_CLEAR(n->last_key[i]);
    return 0;
}

static PyType_Slot name_slots[] = {
    {Py_tp_doc, (void *)(uintptr_t)"What is known of one span name. See _native.pyi."},
    {Py_tp_new, (void *)(uintptr_t)name_new},
    {Py_tp_traverse, (void *)(uintptr_t)name_traverse},
    {Py_tp_clear, (void *)(uintptr_t)name_clear},
    {Py_tp_dealloc, (void *)(uintptr_t)gb_span_gc_dealloc},
    {Py_tp_members, name_members},
    {0, NULL},
};

static PyType_Spec name_spec = {
    .name = "glassbottom._native.SpanName",
    .basicsize = sizeof(gb_span_name),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE,
    .slots = name_slots,
};

/* ---- where it is written down ------------------------------------------------------------------------------------- */

int
gb_span_desk_init(gb_span_desk *desk, PyObject *const objects[6])
{
    if (!gb_operations_check(objects[1]) || !PyDict_Check(objects[2]) || !PyDict_Check(objects[3])
        || !PyContextVar_CheckExact(objects[4]) || !PyContextVar_CheckExact(objects[5])) {
        PyErr_SetString(PyExc_TypeError, "An OperationTable, two dicts and two context variables are needed.");
        return -1;
    }
    PyObject **const to[6] = {&desk->host, &desk->table, &desk->names, &desk->numbers, &desk->label, &desk->request};
    for (int i = 0; i < 6; i++)
        *to[i] = Py_NewRef(objects[i]);
    return 0;
}

int
gb_span_desk_traverse(const gb_span_desk *desk, visitproc visit, void *arg)
{
    Py_VISIT(desk->host);
    Py_VISIT(desk->table);
    Py_VISIT(desk->names);
    Py_VISIT(desk->numbers);
    Py_VISIT(desk->label);
    Py_VISIT(desk->request);
    return 0;
}

void
gb_span_desk_clear(gb_span_desk *desk)
{
    Py_CLEAR(desk->host);
    Py_CLEAR(desk->table);
    Py_CLEAR(desk->names);
    Py_CLEAR(desk->numbers);
    Py_CLEAR(desk->label);
    Py_CLEAR(desk->request);
}

int
gb_span_report(const gb_span_desk *desk, const char *where)
{
    /* What a signal handler has raised while we were at it is the application's. */
    if (!PyErr_ExceptionMatches(PyExc_Exception))
        return -1;
    PyObject *type, *value, *trace;
    PyErr_Fetch(&type, &value, &trace);
    PyErr_NormalizeException(&type, &value, &trace);
    PyObject *said = PyObject_CallMethod(desk->host, "failed", "sO", where, value == NULL ? Py_None : value);
    Py_XDECREF(said);
    Py_XDECREF(type);
    Py_XDECREF(value);
    Py_XDECREF(trace);
    if (said == NULL && !PyErr_ExceptionMatches(PyExc_Exception))
        return -1;
    PyErr_Clear();
    return 0;
}

int
gb_span_call_host(const gb_span_desk *desk, const char *method, PyObject *argument)
{
    PyObject *done = PyObject_CallMethod(desk->host, method, argument == NULL ? NULL : "(O)", argument);
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

int
gb_span_label(const gb_span_desk *desk, gb_span_record *r)
{
    PyObject *number = PyDict_GetItemWithError(desk->numbers, r->name);
    if (number != NULL)
        Py_INCREF(number);
    else if (PyErr_Occurred() || (number = PyObject_CallMethod(desk->host, "number", "O", r->name)) == NULL)
        return -1;
    if (PyLong_CheckExact(number) && PyLong_AsLong(number) != 0) {
        gb_ours before = gb_ours_begin();
        r->token = PyContextVar_Set(desk->label, number);
        gb_ours_end(before);
    }
    Py_DECREF(number);
    return PyErr_Occurred() ? -1 : 0;
}

PyObject *
gb_span_request_now(const gb_span_desk *desk)
{
    PyObject *found = NULL;
    if (PyContextVar_Get(desk->request, Py_None, &found) < 0)
        return NULL;
    gb_span_record *r = Py_TYPE(found) == ticket_type ? ((gb_span_ticket *)found)->record : NULL;
    PyObject *request = Py_NewRef(r == NULL || r->done ? Py_None : (PyObject *)r);
    Py_DECREF(found);
    return request;
}

int
gb_span_enter(const gb_span_desk *desk, gb_span_record *r)
{
    if (gb_span_label(desk, r) < 0)
        return -1;
    gb_ours before = gb_ours_begin();
    gb_span_ticket *ticket = (gb_span_ticket *)ticket_type->tp_alloc(ticket_type, 0);
    if (ticket != NULL) {
        drop_ticket(r);
        ticket->record = r;
        r->ticket = ticket;
        r->request_token = PyContextVar_Set(desk->request, (PyObject *)ticket);
    }
    gb_ours_end(before);
    return r->request_token == NULL ? -1 : 0;
}

void
gb_span_leave(const gb_span_desk *desk, gb_span_record *r)
{
    drop_ticket(r);
    PyObject *variables[2] = {desk->label, desk->request}, **tokens[2] = {&r->token, &r->request_token};
    for (int i = 0; i < 2; i++) {
        PyObject *token = *tokens[i];
        if (token == NULL)
            continue;
        gb_ours before = gb_ours_begin();
        if (PyContextToken_CheckExact(token) && PyContextVar_Reset(variables[i], token) < 0)
            PyErr_Clear();
        gb_ours_end(before);
        Py_CLEAR(*tokens[i]); /* it holds the context */
    }
}

static gb_span_name *
name_of(const gb_span_desk *desk, PyObject *name)
{
    PyObject *found = PyDict_GetItemWithError(desk->names, name);
    if (found != NULL)
        Py_INCREF(found);
    else if (!PyErr_Occurred())
        found = PyObject_CallMethod(desk->host, "name", "O", name);
    if (found != NULL && !PyObject_TypeCheck(found, gb_span_name_type)) {
        Py_DECREF(found);
        PyErr_SetString(PyExc_TypeError, "name() must return a SpanName.");
        return NULL;
    }
    return (gb_span_name *)found;
}

static int
slot_of(const gb_span_desk *desk, gb_span_name *name, PyObject *const parts[4], int64_t *slot)
{
    if (memcmp(parts, name->last_key, sizeof(name->last_key)) == 0) {
        *slot = name->last_slot;
        return 0;
    }
    PyObject *key = PyTuple_Pack(4, parts[0], parts[1], parts[2], parts[3]);
    if (key == NULL)
        return -1;
    PyObject *found = PyDict_GetItemWithError(name->slots, key);
    if (found != NULL)
        Py_INCREF(found);
    else if (!PyErr_Occurred())
        found = PyObject_CallMethod(desk->host, "slot", "OOOOO", name, parts[0], parts[1], parts[2], parts[3]);
    Py_DECREF(key);
    if (found == NULL)
        return -1;
    *slot = PyLong_AsLongLong(found);
    Py_DECREF(found);
    if (PyErr_Occurred())
        return -1;
    for (int i = 0; i < 4; i++)
        Py_XSETREF(name->last_key[i], Py_NewRef(parts[i]));
    name->last_slot = *slot;
    return 0;
}

gb_span_name *
gb_span_count(const gb_span_desk *desk, gb_span_record *r, PyObject *name, PyObject *kind, PyObject *status,
              PyObject *route, PyObject *target, long long duration_ns, long long own_ns)
{
    int64_t slot = -1;
    gb_span_name *found = name_of(desk, name);
    PyObject *const parts[4] = {kind, status, route, target};
    if (found == NULL || slot_of(desk, found, parts, &slot) < 0) {
        Py_XDECREF((PyObject *)found);
        return NULL;
    }
    record(r, desk->table, slot, duration_ns, own_ns);
    found->count++;
    found->mean_ns += ((double)duration_ns - found->mean_ns) / (found->count < 8 ? (double)found->count : 8.0);
    return found;
}

int
gb_intern(PyObject **to, const char *text)
{
    return *to != NULL || (*to = PyUnicode_InternFromString(text)) != NULL ? 0 : -1;
}

int
gb_span_add_type(PyObject *module, PyType_Spec *spec, PyTypeObject *base, PyTypeObject **to)
{
    PyObject *type = PyType_FromModuleAndSpec(module, spec, (PyObject *)base);
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
gb_span_records_add_types(PyObject *module)
{
    if (gb_intern(&gb_str_empty, "") < 0 || gb_intern(&gb_str_ok, "ok") < 0 || gb_intern(&gb_str_error, "error") < 0)
        return -1;
    return gb_span_add_type(module, &ticket_spec, NULL, &ticket_type) < 0
                   || gb_span_add_type(module, &record_spec, NULL, &gb_span_record_type) < 0
                   || gb_span_add_type(module, &name_spec, NULL, &gb_span_name_type) < 0
               ? -1
               : 0;
}
