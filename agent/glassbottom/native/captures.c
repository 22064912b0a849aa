/* captures.c: what deep captures need of C: giving free memory back, letting one process look at this one, and whether
 * anybody traces or profiles a thread already.
 */
#include "core.h"

#include <dlfcn.h>
#include <string.h>
#include <sys/prctl.h>

/* malloc_trim(0) takes the lock of every arena in turn and gives pages of free chunks back to the kernel; without the
 * GIL, since it may take some hundred milliseconds. Looked up, because only glibc has it. */
static PyObject *
memory_trim(PyObject *self, PyObject *args)
{
    (void)self;
    (void)args;
    int (*trim)(size_t) = NULL;
    void *found = dlsym(RTLD_DEFAULT, "malloc_trim");
    memcpy(&trim, &found, sizeof found);
    if (trim == NULL)
        Py_RETURN_NONE;
    int released;
    Py_BEGIN_ALLOW_THREADS
    released = trim(0);
    Py_END_ALLOW_THREADS
    return PyBool_FromLong(released);
}

static PyObject *
memory_can_trim(PyObject *self, PyObject *args)
{
    (void)self;
    (void)args;
    return PyBool_FromLong(dlsym(RTLD_DEFAULT, "malloc_trim") != NULL);
}

/* Yama, where it is at work, lets only ancestors look at a process, unless it says whom else. 0: nobody else. */
static PyObject *
allow_tracer(PyObject *self, PyObject *arg)
{
    (void)self;
    long pid = PyLong_AsLong(arg);
    if (pid == -1 && PyErr_Occurred())
        return NULL;
#ifdef PR_SET_PTRACER
    /* EINVAL: there is no Yama, and nothing to allow. */
    return PyBool_FromLong(prctl(PR_SET_PTRACER, (unsigned long)pid, 0, 0, 0) == 0);
#else
    Py_RETURN_FALSE;
#endif
}

static PyObject *
is_dumpable(PyObject *self, PyObject *args)
{
    (void)self;
    (void)args;
    return PyBool_FromLong(prctl(PR_GET_DUMPABLE, 0, 0, 0, 0) == 1);
}

/* Threads of this interpreter in which a function of sys.setprofile() or sys.settrace() is set. Threads come and go
 * only with the interpreter's lock on its list; what is read of each is two pointers that change under the GIL. */
static PyObject *
threads_traced(PyObject *self, PyObject *args)
{
    (void)self;
    (void)args;
    long count = 0;
    PyInterpreterState *interpreter = PyInterpreterState_Get();
    for (PyThreadState *t = PyInterpreterState_ThreadHead(interpreter); t != NULL; t = PyThreadState_Next(t))
        count += t->c_profilefunc != NULL || t->c_tracefunc != NULL;
    return PyLong_FromLong(count);
}

PyMethodDef gb_capture_methods[] = {
    {"memory_trim", memory_trim, METH_NOARGS, NULL},       {"memory_can_trim", memory_can_trim, METH_NOARGS, NULL},
    {"allow_tracer", allow_tracer, METH_O, NULL},          {"is_dumpable", is_dumpable, METH_NOARGS, NULL},
    {"threads_traced", threads_traced, METH_NOARGS, NULL}, {NULL, NULL, 0, NULL},
};
