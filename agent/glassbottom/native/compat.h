/* compat.h: every PY_VERSION_HEX of the core, behind plain names.
 *
 * Supported: CPython 3.11, 3.12, 3.13 and 3.14, the ordinary (GIL) build. On anything else the extension compiles to
 * a module whose refusal() says so, and the application runs on.
 */
#ifndef GB_COMPAT_H
#define GB_COMPAT_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* dladdr */
#endif
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdbool.h>

#if defined(PYPY_VERSION) || defined(GRAALVM_PYTHON)
#define GB_UNSUPPORTED "Heap sampling needs CPython; this is another implementation."
#elif defined(Py_GIL_DISABLED)
#define GB_UNSUPPORTED "Heap sampling does not support the free-threaded build of CPython yet."
#elif PY_VERSION_HEX < 0x030B0000 || PY_VERSION_HEX >= 0x030F0000
#define GB_UNSUPPORTED "Heap sampling supports CPython 3.11 to 3.14; this version's frames are unknown to it."
#endif

/* The thread state of the calling thread if it holds the GIL of the main interpreter, else NULL. Never aborts. */
static inline PyThreadState *
gb_thread_state_nopy(void)
{
#if PY_VERSION_HEX >= 0x030D0000
    PyThreadState *ts = PyThreadState_GetUnchecked();
#else
    PyThreadState *ts = _PyThreadState_UncheckedGet();
#endif
    if (ts == NULL)
        return NULL;
#if PY_VERSION_HEX < 0x030C0000
    /* Before 3.12 this is the state of whoever holds the GIL, which a thread without it sees too. */
    if (PyGILState_GetThisThreadState() != ts)
        return NULL;
#endif
    return ts->interp == PyInterpreterState_Main() ? ts : NULL;
}

/* Whether the interpreter is on its way out, from any thread. */
static inline bool
gb_finalizing_nopy(void)
{
#if PY_VERSION_HEX >= 0x030D0000
    return Py_IsFinalizing();
#else
    return _Py_IsFinalizing();
#endif
}

/* Bytes between the start of a block and the PyObject in it, for a type with these flags.
 * Source: _PyType_PreHeaderSize in pycore_object.h of each version. */
static inline size_t
gb_preheader_bytes(unsigned long flags)
{
#if PY_VERSION_HEX < 0x030C0000
    const unsigned long preheader = Py_TPFLAGS_MANAGED_DICT;
#else
    const unsigned long preheader = Py_TPFLAGS_MANAGED_DICT | Py_TPFLAGS_MANAGED_WEAKREF;
#endif
    return ((flags & Py_TPFLAGS_HAVE_GC) ? 2 * sizeof(void *) : 0) + ((flags & preheader) ? 2 * sizeof(void *) : 0);
}

#endif
