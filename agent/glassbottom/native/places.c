/* places.c: where the interpreter keeps the allocator of a domain, so that a window can exchange one function at a time.
 *
 * From 3.12 on it lies in _PyRuntime. 3.11 keeps it in a static variable that only PyMem_SetAllocator() reaches, which
 * writes five words, one after another, over whatever is there by then: a tool that puts its hook in that moment is left
 * with its function and pymalloc's ctx, and crashes (seen with tracemalloc: 9 of 90 runs on a loaded machine). So on 3.11
 * the place is looked for, once: our hook is put there by the API, and the interpreter's own data is searched for it.
 */
#define Py_BUILD_CORE 1
#define _GNU_SOURCE 1
#include "hooks.h"

#if PY_VERSION_HEX >= 0x030C0000
#include <internal/pycore_runtime.h>
#elif defined(__linux__)
#include <link.h>
#endif

static bool
same(const PyMemAllocatorEx *a, const PyMemAllocatorEx *b)
{
    return a->ctx == b->ctx && a->malloc == b->malloc && a->calloc == b->calloc && a->realloc == b->realloc
           && a->free == b->free;
}

#if PY_VERSION_HEX >= 0x030C0000

/* Another patch release may have moved the offset: then the place does not hold what the API says. */
PyMemAllocatorEx *
gb_allocator_place(PyMemAllocatorDomain domain, const PyMemAllocatorEx *top, const PyMemAllocatorEx *hook)
{
    (void)hook;
    PyMemAllocatorEx *place =
        domain == PYMEM_DOMAIN_MEM ? &_PyRuntime.allocators.standard.mem : &_PyRuntime.allocators.standard.obj;
    return same(place, top) ? place : NULL;
}

#elif defined(__linux__)

#define CANDIDATES_MAX 4

typedef struct {
    const PyMemAllocatorEx *wanted;
    PyMemAllocatorEx *found[CANDIDATES_MAX];
    int n; /* -1: more than there is room for */
} search;

static int
search_writable(struct dl_phdr_info *library, size_t size, void *argument)
{
    (void)size;
    search *s = argument;
    uintptr_t api = (uintptr_t)&PyObject_Malloc;
    bool interpreter = false;
    for (int i = 0; i < library->dlpi_phnum; i++) {
        const ElfW(Phdr) *p = &library->dlpi_phdr[i];
        interpreter |= p->p_type == PT_LOAD && api - (library->dlpi_addr + p->p_vaddr) < p->p_memsz;
    }
    if (!interpreter)
        return 0;
    for (int i = 0; i < library->dlpi_phnum; i++) {
        const ElfW(Phdr) *p = &library->dlpi_phdr[i];
        if (p->p_type != PT_LOAD || (p->p_flags & PF_W) == 0 || p->p_memsz < sizeof *s->wanted)
            continue;
        uintptr_t start = (library->dlpi_addr + p->p_vaddr + sizeof(void *) - 1) & ~(sizeof(void *) - 1);
        uintptr_t last = library->dlpi_addr + p->p_vaddr + p->p_memsz - sizeof *s->wanted;
        for (uintptr_t at = start; at <= last; at += sizeof(void *)) {
            if (!same((PyMemAllocatorEx *)at, s->wanted))
                continue;
            if (s->n < 0 || s->n == CANDIDATES_MAX)
                s->n = -1;
            else
                s->found[s->n++] = (PyMemAllocatorEx *)at;
        }
    }
    return 1;
}

/* It never moves, so it is looked for once; and over pymalloc only, which is the only one exchanged without the GIL.
 * What a stopped tool once saved may look like our hook too, but does not turn back into pymalloc with the real one. */
PyMemAllocatorEx *
gb_allocator_place(PyMemAllocatorDomain domain, const PyMemAllocatorEx *top, const PyMemAllocatorEx *hook)
{
    static PyMemAllocatorEx *known[3];
    static bool looked[3];
    if (looked[domain] || hook == NULL)
        return known[domain];
    looked[domain] = true;
    search s = {.wanted = hook};
    PyMem_SetAllocator(domain, (PyMemAllocatorEx *)hook);
    dl_iterate_phdr(search_writable, &s);
    PyMem_SetAllocator(domain, (PyMemAllocatorEx *)top);
    int places = 0;
    for (int i = 0; i < s.n; i++) {
        if (same(s.found[i], top)) {
            known[domain] = s.found[i];
            places++;
        }
    }
    if (places != 1)
        known[domain] = NULL;
    return known[domain];
}

#else

PyMemAllocatorEx *
gb_allocator_place(PyMemAllocatorDomain domain, const PyMemAllocatorEx *top, const PyMemAllocatorEx *hook)
{
    (void)domain;
    (void)top;
    (void)hook;
    return NULL;
}

#endif
