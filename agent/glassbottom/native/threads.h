/* threads.h: what threads.c and thread_profile.c share. */
#ifndef GB_THREADS_H
#define GB_THREADS_H

#include "core.h"

/* ---- thread_profile.c: what samples add up to --------------------------------------------------------------------- */

typedef struct {
    uint64_t wall_ns;
    uint64_t cpu_ns;
    unsigned long ident;
    uint32_t node;
    uint32_t code; /* of the coroutine, as of the tree of paths; 0: none */
    uint32_t samples;
} gb_profile_row;

/* What one interval gathers. There are two: while one is read, and its call paths are asked for, the other gathers. */
typedef struct {
    gb_paths paths;
    gb_profile_row *rows;
    uint32_t *row_index;
    uint32_t rows_used;
    uint64_t ticks, dropped;
} gb_profile;

/* Makes the tables on first use, and so many bytes more, zeroed, for the caller: the same each time. NULL, without an
 * exception, where there is no memory. */
void *gb_profile_map(size_t more);
/* The one that gathers. Only after gb_profile_map(). */
gb_profile *gb_profile_now(void);
void gb_profile_add(gb_profile *g, const gb_profile_row *sample);
/* Without dropping a reference: at the end of the interpreter, or in a forked child. Zeroes the caller's bytes too. */
void gb_profile_forget(void);

/* ---- threads.c ---------------------------------------------------------------------------------------------------- */

#define GB_THREADS_MAX 4096u /* looked through at each sample */
extern uint32_t gb_threads_known;

#endif
