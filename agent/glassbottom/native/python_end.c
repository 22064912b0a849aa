/* python_end.c: what must be forgotten when the interpreter ends.
 *
 * No Python object is left then. A program that embeds Python may begin it anew in this process, and what was kept of
 * the one before would be addresses of objects that are gone; so it is forgotten, without dropping a reference.
 */
#include "core.h"

static bool installed;

static void
python_ended(void)
{
    installed = false;          /* Python has forgotten it too */
    gb_watchdog_python_ended(); /* before its thread sees that nobody counts */
    gb_steps_python_ended();
    gb_threads_python_ended();
    gb_labels_python_ended();
}

void
gb_python_end_install(void)
{
    installed = installed || Py_AtExit(python_ended) == 0;
}
