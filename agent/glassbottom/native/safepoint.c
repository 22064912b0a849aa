/* safepoint.c: asks the main thread to do something at its next safe point, between two instructions.
 *
 * That is what pending calls are for, and from 3.13 on they come at once. Before, one that another thread adds is only
 * seen when somebody takes the GIL the next time (CPython computes whether there is anything to see for the thread that
 * adds it), so the flag that makes the interpreter look is set here. It is a hint that may be set at any time: who finds
 * nothing to do goes on, and whoever next takes the GIL computes it anew.
 *
 * On 3.11 Py_AddPendingCall takes the interpreter from the state of whoever has the GIL at that moment: a thread that may
 * end while it looks, or one of a subinterpreter, whose main thread does not exist and which would keep the call for
 * ever. So the main interpreter is named there.
 */
#define Py_BUILD_CORE 1
#include "core.h"

#if !defined(GB_UNSUPPORTED) && PY_VERSION_HEX < 0x030D0000
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-parameter"
#include <internal/pycore_ceval.h>
#include <internal/pycore_interp.h>
#pragma GCC diagnostic pop
#endif

static int
add_call(int (*call)(void *))
{
#if !defined(GB_UNSUPPORTED) && PY_VERSION_HEX < 0x030C0000
    return _PyEval_AddPendingCall(PyInterpreterState_Main(), call, NULL);
#else
    return Py_AddPendingCall(call, NULL);
#endif
}

bool
gb_ask_main_thread_nopy(int (*call)(void *))
{
    if (gb_finalizing_nopy() || add_call(call) != 0)
        return false;
#if !defined(GB_UNSUPPORTED) && PY_VERSION_HEX < 0x030D0000
    _Py_atomic_store_relaxed(&PyInterpreterState_Main()->ceval.eval_breaker, 1);
#endif
    return true;
}
