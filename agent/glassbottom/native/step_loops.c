/* step_loops.c: which event loops there are, without asking the program to tell.
 *
 * The first step on a thread and then one a second ask for the loop that runs there, as asyncio itself would answer. So
 * loops that were there before us are found, and those of every library. They are held weakly: nothing here keeps a
 * closed loop, and one that is made anew at the same address is another.
 */
#include "steps.h"

#define LOOPS_MAX 64

uint64_t gb_step_loops_dropped;
PyObject *gb_cancelled_error;

static PyObject *get_running_loop; /* asyncio's, once it is imported */

typedef struct {
    PyObject *reference; /* weak */
    bool told;
} known_loop;
static known_loop loops[LOOPS_MAX];

/* New reference, or NULL when it is gone; sets no exception. */
static PyObject *
loop_of(PyObject *reference)
{
#if PY_VERSION_HEX >= 0x030D0000
    PyObject *loop = NULL;
    return PyWeakref_GetRef(reference, &loop) == 1 ? loop : NULL;
#else
    PyObject *loop = PyWeakref_GetObject(reference);
    return loop == NULL || loop == Py_None ? NULL : Py_NewRef(loop);
#endif
}

static void
remember_loop(PyObject *loop)
{
    known_loop *room = NULL;
    for (size_t i = 0; i < LOOPS_MAX; i++) {
        if (loops[i].reference == NULL) {
            room = &loops[i];
            continue;
        }
        PyObject *known = loop_of(loops[i].reference);
        bool same = known == loop;
        if (known == NULL)
            room = &loops[i];
        Py_XDECREF(known);
        if (same)
            return;
    }
    if (room == NULL) {
        gb_step_loops_dropped++;
        return;
    }
    PyObject *reference = PyWeakref_NewRef(loop, NULL);
    PyObject *gone = room->reference;
    *room = (known_loop){.reference = reference, .told = false};
    Py_XDECREF(gone);
}

static void
fetch(const char *module_name, const char *name, PyObject **into)
{
    if (*into != NULL)
        return;
    PyObject *key = PyUnicode_FromString(module_name);
    PyObject *module = key == NULL ? NULL : PyImport_GetModule(key);
    if (module != NULL)
        *into = PyObject_GetAttrString(module, name);
    Py_XDECREF(module);
    Py_XDECREF(key);
}

/* asyncio is looked for among the modules that are there: to import it for a program that does without would cost that
 * program more than everything else here. It is the function in C that is asked: in one in Python, which somebody may
 * have put into asyncio.events, a signal handler could run, and what it raises would be lost here. */
void
gb_step_loops_look(void)
{
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    fetch("_asyncio", "_get_running_loop", &get_running_loop);
    fetch("asyncio.exceptions", "CancelledError", &gb_cancelled_error);
    PyObject *loop = get_running_loop == NULL ? NULL : PyObject_CallNoArgs(get_running_loop);
    if (loop != NULL && loop != Py_None)
        remember_loop(loop);
    Py_XDECREF(loop);
    PyErr_Restore(type, value, traceback); /* and forgets what went wrong here */
}

void
gb_step_loops_forget(bool release)
{
    for (size_t i = 0; i < LOOPS_MAX; i++) {
        PyObject *reference = loops[i].reference;
        loops[i] = (known_loop){NULL, false};
        if (release)
            Py_XDECREF(reference);
    }
    gb_step_loops_dropped = 0;
    if (release) {
        /* On 3.11 whoever holds the function holds the module, and with it the tasks of an interpreter that has ended. */
        Py_CLEAR(get_running_loop);
        Py_CLEAR(gb_cancelled_error);
    } else if (!Py_IsInitialized()) { /* A child has its own copies of these. */
        get_running_loop = gb_cancelled_error = NULL;
    }
}

PyObject *
gb_step_loops_take(void)
{
    PyObject *list = PyList_New(0);
    for (size_t i = 0; list != NULL && i < LOOPS_MAX; i++) {
        if (loops[i].reference == NULL || loops[i].told)
            continue;
        loops[i].told = true;
        PyObject *loop = loop_of(loops[i].reference);
        if (loop != NULL && PyList_Append(list, loop) < 0)
            Py_CLEAR(list);
        Py_XDECREF(loop);
    }
    return list;
}
