/* hooks.h: what hooks.c (the functions), chain.c (where they are put) and places.c share. */
#ifndef GB_HOOKS_H
#define GB_HOOKS_H

#include "core.h"

#define GB_SLOTS 4

typedef struct {
    PyMemAllocatorEx below; /* what the hooks of this slot wrap; never changes once used */
    bool used;
} gb_slot;

extern gb_slot gb_raw_slots[GB_SLOTS];
extern gb_slot gb_small_slots[3][GB_SLOTS]; /* by domain; [GB_DOMAIN_RAW] is not used */
extern const PyMemAllocatorEx GB_RAW_HOOKS[GB_SLOTS];
extern const PyMemAllocatorEx GB_SMALL_HOOKS[3][GB_SLOTS]; /* free is what it was */

/* Written by whoever opens and closes windows, read when a countdown ends. */
extern atomic_bool gb_window_open;
extern _Atomic uint32_t gb_window_id;
extern _Atomic double gb_window_share;

/* Bytes until the next small sample; belongs to whoever holds the GIL. */
extern int64_t gb_small_left;

static inline bool
gb_same_allocator(const PyMemAllocatorEx *a, const PyMemAllocatorEx *b)
{
    return a->ctx == b->ctx && a->malloc == b->malloc && a->calloc == b->calloc && a->realloc == b->realloc
           && a->free == b->free;
}

/* Where the interpreter keeps the allocator of OBJ or MEM, whose uppermost is `top`; NULL: not known, or there is no lock
 * on it. With the GIL. */
PyMemAllocatorEx *gb_allocator_place(PyMemAllocatorDomain domain, const PyMemAllocatorEx *top);

/* Nobody is in PyMem_GetAllocator() or PyMem_SetAllocator() meanwhile, nor may the holder call them. */
void gb_allocators_lock_nopy(void);
void gb_allocators_unlock_nopy(void);

#endif
