/* awaits.c: where a coroutine waits, read from the objects that wait for each other.
 *
 * Python offers the same through cr_frame, but that makes a frame object for every coroutine it is asked of, which then
 * lives as long as the coroutine: to look at a thousand tasks must not make the application larger. So code and
 * instruction are read from the frame inside the coroutine, as stack.c does, and only cr_await is asked of Python. No
 * code of the application runs: the attributes are asked of the interpreter's own three types and of nothing else.
 *
 * And the one hook of the warnings module that tells of a coroutine nobody awaited. It is C because the original finds
 * the line to blame by counting Python frames above itself.
 */
#define Py_BUILD_CORE 1
#include "core.h"

#include <string.h>

#define AWAITS_MAX 256 /* generators followed; beyond that the chain is cut */
#define PLACES_MAX 64  /* places remembered: half of them innermost, half outermost, when there are more */
#define CREATED 0
#define SUSPENDED 1
#define RUNNING 2
#define FINISHED 3

#ifndef GB_UNSUPPORTED
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-parameter"
#pragma GCC diagnostic ignored "-Wsign-compare"
#if PY_VERSION_HEX >= 0x030E0000
#include <internal/pycore_interpframe.h>
#else
#include <internal/pycore_frame.h>
#endif
#pragma GCC diagnostic pop

/* The attribute that tells what an object of this type waits for; NULL for other types. */
static const char *
awaits_attribute(const PyObject *object)
{
    if (Py_IS_TYPE(object, &PyCoro_Type))
        return "cr_await";
    if (Py_IS_TYPE(object, &PyGen_Type))
        return "gi_yieldfrom";
    if (Py_IS_TYPE(object, &PyAsyncGen_Type))
        return "ag_await";
    return NULL;
}

/* What stands between `async for` and the generator it drives, between __await__() and the coroutine, and between the
 * wrapper of glassbottom.profile and what it measures. */
static bool
is_go_between(const PyObject *object)
{
    static const char *const names[] = {"async_generator_asend", "async_generator_athrow", "anext_awaitable",
                                        "coroutine_wrapper"};
    const PyTypeObject *type = Py_TYPE(object);
    if (type->tp_traverse == NULL)
        return false;
    if (type->tp_flags & Py_TPFLAGS_HEAPTYPE)
        return strcmp(type->tp_name, "glassbottom._native.Call") == 0;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (strcmp(type->tp_name, names[i]) == 0)
            return true;
    }
    return false;
}

static int
find_awaited(PyObject *object, void *found)
{
    if (object != NULL && (awaits_attribute(object) != NULL || is_go_between(object))) {
        *(PyObject **)found = object;
        return 1;
    }
    return 0;
}

static int
state_of(const PyGenObject *generator)
{
    int8_t state = generator->gi_frame_state;
    return state == FRAME_CREATED     ? CREATED
           : state < FRAME_EXECUTING  ? SUSPENDED
           : state == FRAME_EXECUTING ? RUNNING
                                      : FINISHED;
}

/* Code (borrowed) and offset of where it is. Only for one that is not finished. */
static PyCodeObject *
place_of(PyGenObject *generator, int state, int32_t *offset)
{
    const _PyInterpreterFrame *f = (const _PyInterpreterFrame *)&generator->gi_iframe;
#if PY_VERSION_HEX >= 0x030E0000
    PyCodeObject *code = (PyCodeObject *)(f->f_executable.bits & ~(uintptr_t)3);
    const _Py_CODEUNIT *at = f->instr_ptr;
#elif PY_VERSION_HEX >= 0x030D0000
    PyCodeObject *code = (PyCodeObject *)f->f_executable;
    const _Py_CODEUNIT *at = f->instr_ptr;
#else
    PyCodeObject *code = f->f_code;
    const _Py_CODEUNIT *at = f->prev_instr;
#endif
    Py_ssize_t units = at - _PyCode_CODE(code);
    *offset = state == CREATED || units < 0 || units > INT32_MAX / 2
                  ? -1
                  : (int32_t)(units * (Py_ssize_t)sizeof(_Py_CODEUNIT));
    return code;
}

typedef struct {
    PyCodeObject *code; /* strong */
    int64_t offset;
} place;

static PyObject *
places_to_python(const place *places, Py_ssize_t n)
{
    PyObject *list = PyList_New(n);
    for (Py_ssize_t i = 0; list != NULL && i < n; i++) {
        PyObject *pair = Py_BuildValue("(Oi)", (PyObject *)places[n - 1 - i].code, (int)places[n - 1 - i].offset);
        if (pair == NULL)
            Py_CLEAR(list);
        else
            PyList_SET_ITEM(list, i, pair);
    }
    return list;
}

static PyObject *
native_await_chain(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    (void)self;
    if (nargs < 1 || nargs > 2 || (nargs == 2 && !PyList_CheckExact(args[1]))) {
        PyErr_SetString(PyExc_TypeError, "await_chain() takes a coroutine and, perhaps, a list to add the chain to");
        return NULL;
    }
    place places[PLACES_MAX];
    Py_ssize_t n = 0;
    int state = FINISHED;
    PyObject *at = Py_NewRef(args[0]);
    for (int steps = 0; at != NULL && at != Py_None && steps < AWAITS_MAX; steps++) {
        const char *attribute = awaits_attribute(at);
        PyObject *next = NULL;
        if (attribute != NULL) {
            int here = state_of((PyGenObject *)at);
            if (steps == 0)
                state = here;
            if (here == FINISHED)
                break;
            int32_t offset;
            PyCodeObject *code = place_of((PyGenObject *)at, here, &offset);
            if (n == PLACES_MAX) { /* the middle of a very deep chain is left out */
                Py_DECREF(places[PLACES_MAX / 2].code);
                memmove(&places[PLACES_MAX / 2], &places[PLACES_MAX / 2 + 1],
                        (PLACES_MAX - PLACES_MAX / 2 - 1) * sizeof(place));
                n--;
            }
            places[n++] = (place){(PyCodeObject *)Py_NewRef((PyObject *)code), offset};
            if (nargs == 2 && PyList_Append(args[1], at) < 0)
                goto failed;
            /* Of one that runs, what it awaits cannot be told apart from what is being called. */
            next = here == RUNNING ? Py_NewRef(Py_None) : PyObject_GetAttrString(at, attribute);
            if (next == NULL)
                goto failed;
        } else if (is_go_between(at)) {
            PyObject *found = NULL;
            Py_TYPE(at)->tp_traverse(at, find_awaited, &found);
            if (found == NULL)
                break;
            next = Py_NewRef(found);
        } else {
            break;
        }
        Py_SETREF(at, next);
    }
    PyObject *key = PyBytes_FromStringAndSize((const char *)places, n * (Py_ssize_t)sizeof(place));
    PyObject *list = places_to_python(places, n);
    for (Py_ssize_t i = 0; i < n; i++)
        Py_DECREF(places[i].code);
    if (key == NULL || list == NULL) {
        Py_XDECREF(key);
        Py_XDECREF(list);
        Py_DECREF(at);
        return NULL;
    }
    return Py_BuildValue("(NNNi)", key, list, at, state);

failed:
    for (Py_ssize_t i = 0; i < n; i++)
        Py_DECREF(places[i].code);
    Py_DECREF(at);
    return NULL;
}

/* Called by the interpreter instead of warnings._warn_unawaited_coroutine; self is (original, list, max). */
static PyObject *
tell_unawaited(PyObject *self, PyObject *coroutine)
{
    PyObject *list = PyTuple_GET_ITEM(self, 1);
    if (Py_IS_TYPE(coroutine, &PyCoro_Type) && PyList_GET_SIZE(list) < PyLong_AsSsize_t(PyTuple_GET_ITEM(self, 2))) {
        PyObject *code = PyObject_GetAttrString(coroutine, "cr_code");
        if (code == NULL || PyList_Append(list, code) < 0)
            PyErr_Clear();
        Py_XDECREF(code);
    }
    return PyObject_CallOneArg(PyTuple_GET_ITEM(self, 0), coroutine);
}

#else

static PyObject *
native_await_chain(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    (void)self;
    (void)args;
    (void)nargs;
    PyErr_SetString(PyExc_RuntimeError, GB_UNSUPPORTED);
    return NULL;
}

static PyObject *
tell_unawaited(PyObject *self, PyObject *coroutine)
{
    return PyObject_CallOneArg(PyTuple_GET_ITEM(self, 0), coroutine);
}

#endif

static PyMethodDef tell_unawaited_method = {"_warn_unawaited_coroutine", tell_unawaited, METH_O, NULL};

static PyObject *
native_unawaited_hook(PyObject *self, PyObject *args)
{
    (void)self;
    PyObject *original, *list;
    Py_ssize_t max;
    if (!PyArg_ParseTuple(args, "OO!n:unawaited_hook", &original, &PyList_Type, &list, &max))
        return NULL;
    PyObject *bound = Py_BuildValue("(OOn)", original, list, max);
    if (bound == NULL)
        return NULL;
    PyObject *hook = PyCFunction_New(&tell_unawaited_method, bound);
    Py_DECREF(bound);
    return hook;
}

PyMethodDef gb_await_methods[] = {
    {"await_chain", (PyCFunction)(void (*)(void))native_await_chain, METH_FASTCALL, NULL},
    {"unawaited_hook", native_unawaited_hook, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};
