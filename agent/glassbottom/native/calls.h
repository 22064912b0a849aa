/* calls.h: what calls.c and call_operations.c share. */
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

#endif
