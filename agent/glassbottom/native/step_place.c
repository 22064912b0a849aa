/* step_place.c: puts the functions of steps.c into the coroutine type and takes them out again: at start and stop, in a
 * forked child, and at the end of the interpreter.
 */
#include "steps.h"

#ifndef GB_UNSUPPORTED

static PyMethodDef *replaced_throw; /* NULL: the original is in place */
static bool left_in_chain;          /* somebody sits above us, and calls us */

/* Borrowed; NULL without an exception where it is not as it is known. */
static PyMethodDef *
throw_method(PyTypeObject *type)
{
#if PY_VERSION_HEX >= 0x030C0000
    PyObject *dict = PyType_GetDict(type);
#else
    PyObject *dict = Py_NewRef(type->tp_dict);
#endif
    PyObject *found = dict == NULL ? NULL : PyDict_GetItemString(dict, "throw");
    PyMethodDef *method =
        found != NULL && Py_IS_TYPE(found, &PyMethodDescr_Type) ? ((PyMethodDescrObject *)found)->d_method : NULL;
    Py_XDECREF(dict);
    return method != NULL && method->ml_flags == METH_FASTCALL ? method : NULL;
}

/* The type of generators has the same two functions, and tells what they were. */
static const char *
put_in_place(void)
{
    PyAsyncMethods *slots = PyCoro_Type.tp_as_async;
    sendfunc theirs = PyGen_Type.tp_as_async == NULL ? NULL : PyGen_Type.tp_as_async->am_send;
    if (slots == NULL || theirs == NULL)
        return "Coroutines of this Python have no am_send: their steps cannot be seen.";
    if (slots->am_send != gb_step_send) {
        if (slots->am_send == theirs) {
            gb_step_hot.original_send = theirs;
            slots->am_send = gb_step_send;
        } else if (!left_in_chain) {
            return "Another tool has replaced am_send of the coroutine type: stop it, or start glassbottom before it.";
        }
    }
    PyMethodDef *ours = throw_method(&PyCoro_Type), *generators = throw_method(&PyGen_Type);
    /* Without it steps by exception are not seen, and ends by it are found by steps_reconcile(). */
    if (ours != NULL && generators != NULL && ours->ml_meth == generators->ml_meth) {
        gb_step_original_throw = (gb_step_throw_function)(void (*)(void))ours->ml_meth;
        replaced_throw = ours;
        ours->ml_meth = (PyCFunction)(void (*)(void))gb_step_throw;
    }
    left_in_chain = false;
    return NULL;
}

static void
take_away(void)
{
    if (gb_step_hot.original_send == NULL)
        return;
    if (PyCoro_Type.tp_as_async->am_send == gb_step_send)
        PyCoro_Type.tp_as_async->am_send = gb_step_hot.original_send;
    else
        left_in_chain = true;
    if (replaced_throw != NULL && replaced_throw->ml_meth == (PyCFunction)(void (*)(void))gb_step_throw) {
        replaced_throw->ml_meth = (PyCFunction)(void (*)(void))gb_step_original_throw;
        replaced_throw = NULL;
    }
}

void
gb_steps_python_ended(void)
{
    atomic_store(&gb_steps_counting, false);
    gb_step_hot.generation++;
    take_away();
    gb_step_tables_forget(true);
    gb_blocks_forget(false);
    gb_step_loops_forget(false);
    gb_step_hot.last_thread = 0;
}

int
gb_steps_start(void)
{
    if (atomic_load(&gb_steps_counting))
        return 0;
    if (gb_step_threads_prepare() < 0 || gb_step_tables_map() < 0 || gb_fork_install() < 0)
        return -1;
    gb_python_end_install();
    gb_step_hot.main_interpreter = PyInterpreterState_Main();
    gb_step_hot.generation++;
    gb_step_tables_forget(false);
    Py_XDECREF(gb_step_functions_take(true)); /* of the time before */
    PyErr_Clear();
    gb_step_loops_forget(true);
    for (uint32_t i = 0; i < GB_STEP_THREADS_MAX; i++)
        gb_step_records[i].look_ns = 0;
    gb_steps_counted = gb_step_threads_dropped = 0;
    gb_step_functions_dropped = gb_step_coroutines_dropped = gb_step_thrown = 0;
    gb_step_clock_start();
    const char *reason = put_in_place();
    if (reason != NULL) {
        PyErr_SetString(PyExc_RuntimeError, reason);
        return -1;
    }
    atomic_store(&gb_steps_counting, true);
    return 0;
}

void
gb_steps_stop(void)
{
    if (!atomic_load(&gb_steps_counting))
        return;
    atomic_store(&gb_steps_counting, false);
    gb_step_hot.generation++;
    take_away();
    gb_step_tables_forget(false);
    gb_step_loops_forget(true);
    gb_watchdog_steps_stopped();
}

#else

int
gb_steps_start(void)
{
    PyErr_SetString(PyExc_RuntimeError, GB_UNSUPPORTED);
    return -1;
}

void
gb_steps_stop(void)
{
}

void
gb_steps_python_ended(void)
{
}

#endif

/* The thread that forked may be in a step, and will come back out of it: its record stays, and its generation tells it
 * that nobody counts any more. */
void
gb_steps_after_fork_child(void)
{
#ifndef GB_UNSUPPORTED
    atomic_store(&gb_steps_counting, false);
    gb_step_hot.generation++;
    gb_step_threads_after_fork_child();
    gb_step_tables_forget(true);
    gb_step_loops_forget(false);
    gb_steps_counted = gb_step_threads_dropped = 0;
    gb_step_functions_dropped = gb_step_coroutines_dropped = gb_step_thrown = 0;
#endif
}
