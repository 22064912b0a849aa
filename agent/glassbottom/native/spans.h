/* spans.h: what span_records.c, spans.c, requests.c and doors.c share. */
#ifndef GB_SPANS_H
#define GB_SPANS_H

#include "core.h"

/* What contexts hold of the request they work on. Contexts live on in what a request has started, and cannot be told
 * that it is over; so they hold this, as small as an object can be, and it knows the record only while that is open. */
typedef struct gb_span_record gb_span_record;
typedef struct {
    PyObject_HEAD gb_span_record *record; /* borrowed; NULL once it is over */
} gb_span_ticket;

/* A span, or a request of our own, that is open. spans/open_spans.py says what each field means. */
struct gb_span_record {
    PyObject_HEAD PyObject *span, *name, *above, *entry, *token, *request_token, *place, *prefix;
    gb_span_ticket *ticket; /* NULL: no context works on it */
    long long start_ns, covered_ns, since_ns, cpu_user_ns, cpu_system_ns;
    double allocated;
    unsigned long thread;
    int children;
    char has_cpu, done;
};
extern PyTypeObject *gb_span_record_type;

/* What is known of one span name. slots: dict, (kind, status, route, target) to slot. */
typedef struct {
    PyObject_HEAD PyObject *name, *slots;
    long long count, floor_ns, limit_ns;
    double mean_ns;
    PyObject *last_key[4]; /* mostly the next is what the last was, down to the objects */
    int64_t last_slot;
} gb_span_name;
extern PyTypeObject *gb_span_name_type;

/* Where it is written down. host: asked for what is rare. names: dict of gb_span_name; numbers: dict, of labels. label,
 * request: context variables. */
typedef struct {
    PyObject *host, *table, *names, *numbers, *label, *request;
} gb_span_desk;
/* New references; -1 with an exception when something is of the wrong kind. */
int gb_span_desk_init(gb_span_desk *desk, PyObject *const objects[6]);
int gb_span_desk_traverse(const gb_span_desk *desk, visitproc visit, void *arg);
void gb_span_desk_clear(gb_span_desk *desk);

extern PyObject *gb_str_empty, *gb_str_ok, *gb_str_error;

gb_span_record *gb_span_as_record(PyObject *object); /* NULL when it is none */
/* This thread works on nothing but this from now on. */
void gb_span_measure_thread(gb_span_record *r, bool with_cpu);
/* Counts it in the slot for these, with what its thread took where that is known. What is known of its name, a new
 * reference, or NULL with an exception. */
gb_span_name *gb_span_count(const gb_span_desk *desk, gb_span_record *r, PyObject *name, PyObject *kind,
                            PyObject *status, PyObject *route, PyObject *target, long long duration_ns,
                            long long own_ns);
/* Labels the context with the record's name. -1 with an exception. */
int gb_span_label(const gb_span_desk *desk, gb_span_record *r);
/* Makes it what the context works on. -1 with an exception. */
int gb_span_enter(const gb_span_desk *desk, gb_span_record *r);
/* Restores the context, unless it ends in another one: there its name never was. From now on none works on it. */
void gb_span_leave(const gb_span_desk *desk, gb_span_record *r);
/* The request that the context works on, a new reference, Py_None for none; NULL with an exception. */
PyObject *gb_span_request_now(const gb_span_desk *desk);
/* Calls a method of the host; -1 with an exception. argument NULL: without one. */
int gb_span_call_host(const gb_span_desk *desk, const char *method, PyObject *argument);
/* Tells the host what went wrong, and forgets it; -1 when the exception is no error of ours and must go on. */
int gb_span_report(const gb_span_desk *desk, const char *where);

int gb_intern(PyObject **to, const char *text);
/* base and to may be NULL. */
int gb_span_add_type(PyObject *module, PyType_Spec *spec, PyTypeObject *base, PyTypeObject **to);
void gb_span_gc_dealloc(PyObject *self);
int gb_span_record_traverse(PyObject *self, visitproc visit, void *arg);
int gb_span_record_clear(PyObject *self);

int gb_span_records_add_types(PyObject *module);
int gb_requests_add_types(PyObject *module);

#endif
