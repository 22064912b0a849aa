/* step_report.c: the Python face of steps: reads the tables and the threads' records out. See _native.pyi. */
#include "steps.h"

static PyObject *
native_steps_start(PyObject *self, PyObject *args)
{
    (void)self;
    (void)args;
    if (gb_steps_start() < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *
native_steps_stop(PyObject *self, PyObject *args)
{
    (void)self;
    (void)args;
    gb_steps_stop();
    Py_RETURN_NONE;
}

static PyObject *
native_steps_take(PyObject *self, PyObject *args)
{
    (void)self;
    (void)args;
    return gb_step_functions_take(!atomic_load(&gb_steps_counting));
}

static PyObject *
native_steps_of(PyObject *self, PyObject *coroutine)
{
    (void)self;
    if (!atomic_load(&gb_steps_counting) || !PyCoro_CheckExact(coroutine) || !gb_step_has_begun(coroutine))
        Py_RETURN_NONE;
    gb_step_coroutine *c = gb_step_coroutine_find(coroutine);
    if (c != NULL)
        return Py_BuildValue("(KKKIIK)", (unsigned long long)c->first_ns, (unsigned long long)c->start_ns,
                             (unsigned long long)c->end_ns, (unsigned int)c->steps, (unsigned int)c->bare_yields,
                             (unsigned long long)c->busy_ns);
    Py_RETURN_NONE;
}

static void
keep_row(const void *coroutine)
{
    gb_step_coroutine *c = coroutine == NULL ? NULL : gb_step_coroutine_find(coroutine);
    if (c != NULL)
        c->kept = true;
}

static PyObject *
native_steps_reconcile(PyObject *self, PyObject *args)
{
    (void)self;
    PyObject *live;
    unsigned long long listed_ns = UINT64_MAX;
    if (!PyArg_ParseTuple(args, "O!|K:steps_reconcile", &PyList_Type, &live, &listed_ns))
        return NULL;
    if (!atomic_load(&gb_steps_counting))
        return PyLong_FromLong(0);
    gb_step_coroutines_keep_newer(listed_ns);
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(live); i++)
        keep_row(PyList_GET_ITEM(live, i));
    for (uint32_t i = 0; i < atomic_load(&gb_step_records_used); i++) {
        if (atomic_load(&gb_step_records[i].seq) & 1)
            keep_row(gb_step_records[i].coroutine);
    }
    return PyLong_FromUnsignedLong(gb_step_coroutines_end_unkept());
}

static PyObject *
native_steps_loops(PyObject *self, PyObject *args)
{
    (void)self;
    (void)args;
    return gb_step_loops_take();
}

static PyObject *
native_steps_running(PyObject *self, PyObject *args)
{
    (void)self;
    (void)args;
    PyObject *list = PyList_New(0);
    for (uint32_t i = 0; list != NULL && i < atomic_load(&gb_step_records_used); i++) {
        gb_step_record *r = &gb_step_records[i];
        if ((atomic_load(&r->seq) & 1) == 0)
            continue;
        PyCodeObject *code = gb_step_function_code(atomic_load(&r->function), atomic_load(&r->serial));
        if (code == NULL)
            continue;
        PyObject *row =
            Py_BuildValue("(kOK)", atomic_load(&r->thread), code, (unsigned long long)atomic_load(&r->start_ns));
        if (row == NULL || PyList_Append(list, row) < 0)
            Py_CLEAR(list);
        Py_XDECREF(row);
    }
    return list;
}

static PyObject *
native_steps_statistics(PyObject *self, PyObject *args)
{
    (void)self;
    (void)args;
    unsigned int threads = 0;
    for (uint32_t i = 0; i < GB_STEP_THREADS_MAX; i++)
        threads += atomic_load(&gb_step_records[i].used) != 0;
    return Py_BuildValue(
        "{s:i,s:K,s:I,s:I,s:K,s:I,s:I,s:K,s:I,s:I,s:K,s:K,s:K,s:n}", "state", (int)atomic_load(&gb_steps_counting),
        "steps", (unsigned long long)(gb_steps_counted + gb_steps_ended_used), "threads", threads, "threads_max",
        GB_STEP_THREADS_MAX, "threads_dropped", (unsigned long long)gb_step_threads_dropped, "coroutines",
        (unsigned int)gb_step_coroutines_used, "coroutines_max", GB_STEP_COROUTINES_MAX, "coroutines_dropped",
        (unsigned long long)gb_step_coroutines_dropped, "functions", (unsigned int)gb_step_functions_used,
        "functions_max", GB_STEP_FUNCTIONS_MAX, "functions_dropped", (unsigned long long)gb_step_functions_dropped,
        "loops_dropped", (unsigned long long)gb_step_loops_dropped, "thrown", (unsigned long long)gb_step_thrown,
        "tables_bytes", (Py_ssize_t)gb_step_tables_bytes());
}

PyMethodDef gb_step_methods[] = {
    {"steps_start", native_steps_start, METH_NOARGS, NULL},
    {"steps_stop", native_steps_stop, METH_NOARGS, NULL},
    {"steps_take", native_steps_take, METH_NOARGS, NULL},
    {"steps_of", native_steps_of, METH_O, NULL},
    {"steps_reconcile", native_steps_reconcile, METH_VARARGS, NULL},
    {"steps_loops", native_steps_loops, METH_NOARGS, NULL},
    {"steps_running", native_steps_running, METH_NOARGS, NULL},
    {"steps_statistics", native_steps_statistics, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

PyCodeObject *
gb_step_code_gil(unsigned long thread_id)
{
    uint32_t used = atomic_load_explicit(&gb_step_records_used, memory_order_relaxed);
    for (uint32_t i = 0; i < used; i++) {
        gb_step_record *r = &gb_step_records[i];
        if (atomic_load_explicit(&r->thread, memory_order_relaxed) == thread_id && (atomic_load(&r->seq) & 1) != 0)
            return gb_step_function_code(atomic_load(&r->function), atomic_load(&r->serial));
    }
    return NULL;
}
