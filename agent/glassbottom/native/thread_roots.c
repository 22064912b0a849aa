/* thread_roots.c: the call path of every thread at this moment, for whoever asks what threads were started to do. */
#include "core.h"

#include <stdlib.h>
#include <string.h>

#define THREADS_MAX 4096u

typedef struct {
    unsigned long ident;
    unsigned length;
    gb_frame *frames; /* with references of their own */
} thread_path;

/* Every thread's path, copied before the first object is made: from then on threads may end. */
static uint32_t
copy_paths(thread_path *paths)
{
    uint32_t count = 0;
    PyThreadState *ts = PyInterpreterState_ThreadHead(PyInterpreterState_Main());
    for (uint32_t met = 0; ts != NULL && met < THREADS_MAX; ts = PyThreadState_Next(ts), met++) {
        gb_frame frames[GB_FRAMES_MAX];
        bool truncated;
        unsigned n = gb_threads_is_excluded(PyThreadState_GetID(ts)) ? 0 : gb_walk_gil(ts, frames, &truncated);
        gb_frame *copy = n == 0 ? NULL : malloc(n * sizeof(*copy));
        if (copy == NULL)
            continue;
        memcpy(copy, frames, n * sizeof(*copy));
        for (unsigned i = 0; i < n; i++)
            Py_INCREF(copy[i].code);
        paths[count++] = (thread_path){ts->thread_id, n, copy};
    }
    return count;
}

static PyObject *
path_to_python(const thread_path *p)
{
    PyObject *frames = PyList_New((Py_ssize_t)p->length);
    for (unsigned i = 0; frames != NULL && i < p->length; i++) {
        PyObject *frame = Py_BuildValue("(Oi)", p->frames[i].code, (int)p->frames[i].offset);
        if (frame == NULL)
            Py_CLEAR(frames);
        else
            PyList_SET_ITEM(frames, (Py_ssize_t)i, frame);
    }
    return frames == NULL ? NULL : Py_BuildValue("(kN)", p->ident, frames);
}

PyObject *
gb_threads_roots(PyObject *self, PyObject *args)
{
    (void)self;
    (void)args;
    thread_path *paths = malloc(THREADS_MAX * sizeof(*paths));
    if (paths == NULL)
        return PyErr_NoMemory();
    uint32_t count = copy_paths(paths);
    PyObject *result = PyList_New(0);
    for (uint32_t i = 0; i < count; i++) {
        PyObject *item = result == NULL ? NULL : path_to_python(&paths[i]);
        if (item == NULL || PyList_Append(result, item) < 0)
            Py_CLEAR(result);
        Py_XDECREF(item);
        for (unsigned k = 0; k < paths[i].length; k++)
            Py_DECREF(paths[i].frames[k].code);
        free(paths[i].frames);
    }
    free(paths);
    return result;
}
