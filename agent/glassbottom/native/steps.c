/* steps.c */
#include "core.h"

PyMethodDef gb_step_methods[] = {
    {NULL, NULL, 0, NULL},
};

void
gb_steps_after_fork_child(void)
{
}

PyCodeObject *
gb_step_code_gil(unsigned long thread_id)
{
    (void)thread_id;
    return NULL;
}
