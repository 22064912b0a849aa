/* requests.h: what requests.c and doors.c share. */
#ifndef GB_REQUESTS_H
#define GB_REQUESTS_H

#include "spans.h"

/* ---- requests.c --------------------------------------------------------------------------------------------------- */

/* Where requests of one life of the agent are written down. methods: those that make a name; other_method: the name for
 * the others. */
typedef struct {
    PyObject_HEAD gb_span_desk desk;
    PyObject *methods, *other_method;
    unsigned long long requests;
    char is_logged;
} gb_request_desk;

/* environ: what the server hands in for it, let go of at the end. error: an
 * exception's class, or a word. otel: the record of OpenTelemetry's span for it. */
typedef struct {
    gb_span_record base;
    gb_request_desk *desk;
    PyObject *method, *route, *error, *environ, *otel;
    int status_code;
    char is_task;
} gb_request;

extern PyObject *gb_str_websocket;

/* A request begins; NULL when it is part of one that is watched already, or when something failed, which is told.
 * *failed: with an exception that is not ours. */
gb_request *gb_request_begin(gb_request_desk *d, PyObject *name, PyObject *environ, bool in_thread, bool *failed);
/* The response is complete, or never will be; only the first time counts. -1 with an exception that is not ours. */
int gb_request_end(gb_request *r, PyObject *error);
/* The context goes back to what it did before. None, a new reference, or NULL with an exception that is not ours. */
PyObject *gb_request_close(gb_request *r);

static inline bool
gb_is_text(PyObject *value, PyObject *text)
{
    return value == text || (value != NULL && PyUnicode_CheckExact(value) && PyUnicode_Compare(value, text) == 0);
}

/* ---- doors.c ------------------------------------------------------------------------------------------------------ */

int gb_doors_add_type(PyObject *module); /* -1 with an exception */
/* The desk's method open(scope, send). */
PyObject *gb_request_open(PyObject *self, PyObject *const *args, Py_ssize_t n);

#endif
