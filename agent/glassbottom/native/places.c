/* places.c: where the interpreter keeps its allocators, and its own lock on them.
 *
 * A window exchanges functions there without the GIL, while a tool may be reading or writing them through the API with
 * it. That copies five words in pieces: on a profile-guided build, whose compiler takes the code for cold, four bytes at
 * a time ("rep movsl" in Debian's 3.11.2 and 3.11 images). A tool that starts meanwhile saves half of one pointer and
 * half of another, and crashes when it calls them; exchanging whole words is no help. From 3.12 on the API takes a lock,
 * and so do we. 3.11 has none, so there the place is not told, and nothing is exchanged without the GIL.
 */
#define Py_BUILD_CORE 1
#include "hooks.h"

#if PY_VERSION_HEX >= 0x030C0000
#include <internal/pycore_runtime.h>

/* Another patch release may have moved the offset: then the place does not hold what the API says. */
PyMemAllocatorEx *
gb_allocator_place(PyMemAllocatorDomain domain, const PyMemAllocatorEx *top)
{
    PyMemAllocatorEx *place =
        domain == PYMEM_DOMAIN_MEM ? &_PyRuntime.allocators.standard.mem : &_PyRuntime.allocators.standard.obj;
    return gb_same_allocator(place, top) ? place : NULL;
}

void
gb_allocators_lock_nopy(void)
{
#if PY_VERSION_HEX >= 0x030D0000
    PyMutex_Lock(&_PyRuntime.allocators.mutex);
#else
    PyThread_acquire_lock(_PyRuntime.allocators.mutex, WAIT_LOCK);
#endif
}

void
gb_allocators_unlock_nopy(void)
{
#if PY_VERSION_HEX >= 0x030D0000
    PyMutex_Unlock(&_PyRuntime.allocators.mutex);
#else
    PyThread_release_lock(_PyRuntime.allocators.mutex);
#endif
}

#else

PyMemAllocatorEx *
gb_allocator_place(PyMemAllocatorDomain domain, const PyMemAllocatorEx *top)
{
    (void)domain;
    (void)top;
    return NULL;
}

void
gb_allocators_lock_nopy(void)
{
}

void
gb_allocators_unlock_nopy(void)
{
}

#endif
