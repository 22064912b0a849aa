/* watchdog.c */
#include "core.h"

PyMethodDef gb_watchdog_methods[] = {
    {NULL, NULL, 0, NULL},
};

void
gb_watchdog_after_fork_child(void)
{
}
