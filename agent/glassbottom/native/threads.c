/* threads.c */
#include "core.h"

PyMethodDef gb_thread_methods[] = {
    {NULL, NULL, 0, NULL},
};

void
gb_threads_after_fork_child(void)
{
}

void
gb_threads_sample(uint64_t wall_ns)
{
    (void)wall_ns;
}
