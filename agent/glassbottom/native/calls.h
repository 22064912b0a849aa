/* calls.h: what calls.c, call_pieces.c and call_operations.c share. */
#ifndef GB_CALLS_H
#define GB_CALLS_H

#include "core.h"

enum { GB_CALL_OK, GB_CALL_ERROR, GB_CALL_CANCELLED, GB_CALL_STATUSES };

/* One function or block that is measured. */
typedef struct {
    PyObject_HEAD PyObject *new_slot; /* callable: status to slot */
    uint64_t generation;
    int64_t slots[GB_CALL_STATUSES]; /* -1: not asked for yet */
    double mean_ns;                  /* of a piece */
    uint32_t unread;                 /* calls until the next is asked for its CPU time */
} gb_call_operation;

typedef struct {
    int64_t user_ns, system_ns;
    bool known;
} gb_cpu_time;

extern PyObject *gb_call_table;         /* where to record, or NULL: nothing is measured */
extern uint64_t gb_call_generation;     /* of tables: slots of one mean nothing to the next */
extern PyTypeObject *gb_operation_type; /* set before any call */

/* ---- call_operations.c -------------------------------------------------------------------------------------------- */

int gb_call_operations_init(PyObject *module); /* -1 with an exception */
/* The slot for a status in the present table, -1 when there is none; an exception then only if it is the application's,
 * such as KeyboardInterrupt. */
int64_t gb_call_slot(gb_call_operation *o, int status);
/* Whether this call is asked for its CPU time. */
bool gb_call_asks_cpu(gb_call_operation *o);
/* After one that was asked: its pieces took so long. */
void gb_call_asked_cpu(gb_call_operation *o, double piece_ns);
/* Of the calling thread, until now. */
gb_cpu_time gb_cpu_now(void);
/* tp_dealloc of a type with tp_clear, allocated on the heap. */
void gb_call_dealloc(PyObject *self);

/* ---- calls.c ------------------------------------------------------------------------------------------------------ */

/* A call that has begun. Of a coroutine or generator it is also what stands between the wrapper and what is wrapped. */
typedef struct gb_call {
    PyObject_HEAD gb_call_operation *operation;
    struct gb_call *parent;    /* the caller, of this piece */
    struct gb_call_cell *cell; /* where it is on top, or below */
    bool running;              /* has begun, or this piece has, and not ended */
    bool asks, recorded;
    int64_t started_ns;  /* this piece */
    int64_t children_ns; /* time in callees */
    double allocated;    /* NaN: not known */
    gb_cpu_time cpu;
    /* Of what runs in pieces: */
    PyObject *inner;
    struct gb_call *first_parent; /* of this await */
    int64_t await_ns, duration_ns, busy_ns, user_ns, system_ns, pieces;
} gb_call;

/* The innermost call of this context, a new reference or NULL without an exception. */
gb_call *gb_call_innermost(void);
/* A call, or a piece of it, begins and ends. How long it took. */
void gb_call_enter(gb_call *c);
int64_t gb_call_leave(gb_call *c);
int64_t gb_call_leave_raising(gb_call *c); /* beside an exception that is on its way */
/* Takes it out of its context, and does not ask how long it took. */
void gb_call_take_out(gb_call *c);
/* The caller, which may be NULL, is told how long it waited for a callee. */
void gb_call_told(gb_call *parent, int64_t duration_ns);
/* GB_CALL_…, of an exception or None. */
int gb_call_status_of(PyObject *error);
/* -1 with an exception of the application's, such as KeyboardInterrupt, that came meanwhile. */
int gb_call_record(gb_call *c, int status, int64_t duration_ns, int64_t busy_ns);

/* ---- call_pieces.c ------------------------------------------------------------------------------------------------ */

extern PyTypeObject *gb_call_type;      /* set before any call */
int gb_call_add_type(PyObject *module); /* -1 with an exception */

#endif
