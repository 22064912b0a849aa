/* chain.c: where the hooks are put, and the only place that replaces allocators.
 *
 * Changing allocators under a running process:
 * - An allocator has one ctx for four functions, and we leave its free as it was. So our functions receive the ctx of
 *   what they wrap and find their own state by being distinct functions: one set per slot, made by macro. A reader
 *   that catches the struct half-written sees old and new functions with the same ctx, and any mixture is right.
 * - What a slot wraps is written once, before the slot is first installed, and never changes: a hook in flight, or one
 *   that another tool saved, always calls on correctly. A different allocator below gets another slot.
 * - Who is in the chain and what may be wrapped is decided with the GIL (gb_hooks_check), where other tools change
 *   allocators too. Between checks a window only swaps pymalloc for our hook above it and back, which by the first two
 *   points needs no GIL. It must not: windows that waited for the GIL would open and close late by just as long as the
 *   program keeps it, which is when it allocates.
 * - Without the GIL functions are exchanged under the interpreter's own lock on its allocators, and only where they are
 *   what they were seen to be: a tool that comes or goes in between keeps what it has put there, and the window stays
 *   shut. ctx is never written: whoever allocates just then may have read the tool's function already, and would call it
 *   with pymalloc's ctx. Where there is no lock (3.11; places.c) the hooks are put with the GIL and stay.
 * - A hook is removed only if it is on top. Otherwise it stays and counts in vain: outside windows a hit is no sample.
 */
#include "hooks.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

uint64_t gb_hook_losses;
char gb_pause_reason[256];

/* ---- who is in the chain -------------------------------------------------------------------------------------- */

static bool
from_python(void *(*function)(void *, size_t))
{
    Dl_info python, info;
    return dladdr((void *)(uintptr_t)&PyObject_Malloc, &python) != 0 && dladdr((void *)(uintptr_t)function, &info) != 0
           && info.dli_fbase == python.dli_fbase;
}

/* Only allocators known to pass a pointer they have not seen down to pymalloc may be wrapped: one that adds its own
 * header to blocks would choke on ours. */
static bool
may_wrap(const PyMemAllocatorEx *a, const char *domain)
{
    if (from_python(a->malloc))
        return true;
    Dl_info info;
    if (dladdr((void *)(uintptr_t)a->malloc, &info) == 0) {
        snprintf(gb_pause_reason, sizeof gb_pause_reason, "The %s allocator belongs to no known library.", domain);
        return false;
    }
    static const char *const KNOWN[] = {"_memalloc", "_memray",     "memray", "scalene",
                                        "pyroscope", "glassbottom", "gbfloor"};
    const char *name = info.dli_fname == NULL ? "" : strrchr(info.dli_fname, '/');
    name = name == NULL ? "" : name;
    for (size_t i = 0; i < sizeof(KNOWN) / sizeof(*KNOWN); i++) {
        if (strstr(name, KNOWN[i]) != NULL)
            return true;
    }
    snprintf(
        gb_pause_reason, sizeof gb_pause_reason,
        "Another tool (%.80s) replaced the %s allocator and is not known to be safe to stand on; stop it to go on.",
        name[0] == '/' ? name + 1 : name, domain);
    return false;
}

/* A slot that wraps this allocator, or -1. A new one must first show that it hands a raw block's free to our raw hook. */
static int
slot_for(gb_slot slots[GB_SLOTS], const PyMemAllocatorEx *below)
{
    for (int k = 0; k < GB_SLOTS; k++) {
        if (slots[k].used && gb_same_allocator(&slots[k].below, below))
            return k;
    }
    for (int k = 0; k < GB_SLOTS; k++) {
        if (!slots[k].used) {
            slots[k].below = *below;
            slots[k].used = true;
            return k;
        }
    }
    snprintf(gb_pause_reason, sizeof gb_pause_reason,
             "Other tools replaced the allocators in more than %d different ways; restart the process to go on.",
             GB_SLOTS);
    return -1;
}

static int
our_slot(const PyMemAllocatorEx hooks[GB_SLOTS], const PyMemAllocatorEx *a)
{
    for (int k = 0; k < GB_SLOTS; k++) {
        if (a->malloc == hooks[k].malloc)
            return k;
    }
    return -1;
}

/* Asks the chain itself: an allocation that our hook must notice if it is anywhere in it. */
static bool
chain_has_raw_hook(void)
{
    gb_thread *t = &gb_tls;
    int64_t left = t->raw_left;
    t->probing = GB_PROBE_RAW;
    t->probe_seen = false;
    t->raw_left = 0;
    void *p = PyMem_RawMalloc(1);
    t->probing = GB_PROBE_NONE;
    t->raw_left = left;
    PyMem_RawFree(p);
    return t->probe_seen;
}

static bool
chain_has_small_hook(PyMemAllocatorDomain domain)
{
    gb_thread *t = &gb_tls;
    int64_t left = gb_small_left, raw_left = t->raw_left;
    t->probing = GB_PROBE_SMALL;
    t->probe_seen = false;
    gb_small_left = 0;
    void *p = domain == PYMEM_DOMAIN_MEM ? PyMem_Malloc(1) : PyObject_Malloc(1);
    t->probing = GB_PROBE_NONE;
    gb_small_left = left;
    t->raw_left = raw_left;
    domain == PYMEM_DOMAIN_MEM ? PyMem_Free(p) : PyObject_Free(p);
    return t->probe_seen;
}

/* ---- raw: install, check -------------------------------------------------------------------------------------- */

bool
gb_raw_install(void)
{
    PyMemAllocatorEx top;
    PyMem_GetAllocator(PYMEM_DOMAIN_RAW, &top);
    if (our_slot(GB_RAW_HOOKS, &top) >= 0 || chain_has_raw_hook())
        return true;
    if (!may_wrap(&top, "raw"))
        return false;
    int k = slot_for(gb_raw_slots, &top);
    if (k < 0)
        return false;
    PyMemAllocatorEx hook = GB_RAW_HOOKS[k];
    hook.ctx = top.ctx;
    PyMem_SetAllocator(PYMEM_DOMAIN_RAW, &hook);
    return true;
}

/* Puts the raw hook back when another tool removed it; the tables restart then. */
bool
gb_raw_check(void)
{
    PyMemAllocatorEx top;
    PyMem_GetAllocator(PYMEM_DOMAIN_RAW, &top);
    if (our_slot(GB_RAW_HOOKS, &top) >= 0 || chain_has_raw_hook())
        return true;
    static bool away;
    if (!away) {
        /* Frees went by unseen, so no sample can be trusted any more. */
        gb_hook_losses++;
        gb_lock();
        atomic_fetch_add(&gb_epoch, 1);
        gb_table_clear_locked();
        gb_stacks_clear_locked(&gb_stacks);
        gb_unlock();
    }
    away = !gb_raw_install();
    return !away;
}

/* ---- OBJ and MEM: what may be wrapped, decided with the GIL --------------------------------------------------- */

/* What gb_window_swap() may do without the GIL until the next check. */
typedef struct {
    PyMemAllocatorEx top; /* the allocator seen */
    int slot;             /* our slot above `top`; -1: our hook is buried below it already */
} plan;
static plan plans[3];
static PyMemAllocatorEx *places[3];
static pthread_mutex_t swap_mutex = PTHREAD_MUTEX_INITIALIZER; /* guards plans, and every change of OBJ and MEM */

/* CPython's debug hooks put a letter and seven 0xFD before each block, and abort at one that lacks them. They may be on
 * without PYTHONMALLOC or -X dev: by PyMem_SetupDebugHooks(), or with the variable gone from the environment. */
static bool
has_debug_hooks(void)
{
    static const unsigned char MARK[7] = {0xFD, 0xFD, 0xFD, 0xFD, 0xFD, 0xFD, 0xFD};
    unsigned char *mem = PyMem_Malloc(16), *obj = PyObject_Malloc(16);
    bool found = (mem != NULL && mem[-8] == 'm' && memcmp(mem - 7, MARK, sizeof MARK) == 0)
                 || (obj != NULL && obj[-8] == 'o' && memcmp(obj - 7, MARK, sizeof MARK) == 0);
    PyMem_Free(mem);
    PyObject_Free(obj);
    if (found)
        snprintf(gb_pause_reason, sizeof gb_pause_reason, "The debug hooks on CPython's allocators are on.");
    return found;
}

/* Lets the allocator free a raw block, as it will have to free every sampled one, and looks whether we saw it. */
static bool
frees_reach_raw(const PyMemAllocatorEx *a)
{
    snprintf(gb_pause_reason, sizeof gb_pause_reason, "There was no memory to look at this process's allocators.");
    void *p = PyMem_RawMalloc(GB_SMALL_BYTES_MAX);
    if (p == NULL)
        return false;
    gb_sample s = {.ptr = p, .size = 1, .interval_bytes = 1.0, .share = 1.0f, .node = GB_NODE_NATIVE};
    gb_lock();
    bool put = gb_table_put_locked(&s);
    gb_live.taken -= put;
    gb_unlock();
    a->free(a->ctx, p);
    bool missed = put && gb_table_take_nopy(p, &s);
    if (put && !missed)
        gb_pause_reason[0] = '\0';
    if (missed)
        snprintf(gb_pause_reason, sizeof gb_pause_reason, "%s",
                 "This process frees small blocks past the raw allocator (PYTHONMALLOC=malloc, or another allocator).");
    return put && !missed;
}

/* The one allocator that never goes away. Any other belongs to a tool that may be stopped between a look without the GIL
 * and the store that follows; bringing back its functions then would run them on what it has torn down. Over such a one
 * the hooks are put with the GIL, once, and windows are only a flag. */
static bool
is_pymalloc(const PyMemAllocatorEx *a)
{
    return a->ctx == NULL && from_python(a->malloc);
}

/* A slot's functions with the ctx and the free of what they wrap. */
static PyMemAllocatorEx
hook_over(PyMemAllocatorDomain domain, const PyMemAllocatorEx *below, int k)
{
    PyMemAllocatorEx hook = GB_SMALL_HOOKS[domain][k];
    hook.ctx = below->ctx;
    hook.free = below->free;
    return hook;
}

static bool
make_plan(PyMemAllocatorDomain domain)
{
    PyMemAllocatorEx top;
    PyMem_GetAllocator(domain, &top);
    places[domain] = gb_allocator_place(domain, &top);
    int k = our_slot(GB_SMALL_HOOKS[domain], &top);
    if (k >= 0) {
        plans[domain] = (plan){gb_small_slots[domain][k].below, k};
        return true;
    }
    if (chain_has_small_hook(domain)) {
        plans[domain] = (plan){top, -1};
        return true;
    }
    bool known = false;
    for (k = 0; k < GB_SLOTS; k++)
        known |= gb_small_slots[domain][k].used && gb_same_allocator(&gb_small_slots[domain][k].below, &top);
    if (!known
        && (!may_wrap(&top, domain == PYMEM_DOMAIN_MEM ? "mem" : "obj") || has_debug_hooks() || !frees_reach_raw(&top)))
        return false;
    k = slot_for(gb_small_slots[domain], &top);
    plans[domain] = (plan){top, k};
    if (k < 0)
        return false;
    if (!is_pymalloc(&top) || places[domain] == NULL) {
        PyMemAllocatorEx hook = hook_over(domain, &top, k);
        PyMem_SetAllocator(domain, &hook);
    }
    return true;
}

bool
gb_hooks_check(void)
{
    pthread_mutex_lock(&swap_mutex);
    gb_pause_reason[0] = '\0';
    bool fine = gb_raw_check() && make_plan(PYMEM_DOMAIN_MEM) && make_plan(PYMEM_DOMAIN_OBJ);
    pthread_mutex_unlock(&swap_mutex);
    return fine;
}

/* ---- windows: open, close; without the GIL -------------------------------------------------------------------- */

/* False, and nothing done, when it is no longer what it was seen to be. Who allocates meanwhile takes no lock, and meets any
 * mixture of the two; malloc goes first on the way in and last on the way out, so that a slot is known by it. */
static bool
exchange(PyMemAllocatorDomain domain, const PyMemAllocatorEx *from, const PyMemAllocatorEx *to, bool ours)
{
    PyMemAllocatorEx *place = places[domain];
    if (place == NULL)
        return false;
    gb_allocators_lock_nopy();
    bool fine = gb_same_allocator(place, from);
    if (fine) {
        if (ours)
            __atomic_store_n(&place->malloc, to->malloc, __ATOMIC_SEQ_CST);
        __atomic_store_n(&place->calloc, to->calloc, __ATOMIC_SEQ_CST);
        __atomic_store_n(&place->realloc, to->realloc, __ATOMIC_SEQ_CST);
        if (!ours)
            __atomic_store_n(&place->malloc, to->malloc, __ATOMIC_SEQ_CST);
    }
    gb_allocators_unlock_nopy();
    return fine;
}

static bool
swap_in(PyMemAllocatorDomain domain)
{
    PyMemAllocatorEx top;
    PyMem_GetAllocator(domain, &top);
    if (our_slot(GB_SMALL_HOOKS[domain], &top) >= 0)
        return true;
    const plan *p = &plans[domain];
    if (!gb_same_allocator(&top, &p->top))
        return false; /* somebody came or went since the check */
    if (p->slot >= 0) {
        if (top.ctx != NULL) /* not pymalloc: with the GIL only */
            return false;
        PyMemAllocatorEx hook = hook_over(domain, &top, p->slot);
        return exchange(domain, &top, &hook, true);
    }
    return true;
}

static void
take_off(PyMemAllocatorDomain domain, bool with_gil)
{
    PyMemAllocatorEx top;
    PyMem_GetAllocator(domain, &top);
    int k = our_slot(GB_SMALL_HOOKS[domain], &top);
    if (k < 0)
        return;
    PyMemAllocatorEx *below = &gb_small_slots[domain][k].below;
    if (with_gil)
        PyMem_SetAllocator(domain, below);
    else if (below->ctx == NULL)
        exchange(domain, &top, below, false);
}

bool
gb_window_open_nopy(uint32_t id, double share)
{
    pthread_mutex_lock(&swap_mutex);
    bool fine = atomic_load(&gb_sampling) && swap_in(PYMEM_DOMAIN_MEM) && swap_in(PYMEM_DOMAIN_OBJ);
    if (fine) {
        atomic_store(&gb_window_id, share < 1.0 ? id : 0);
        atomic_store(&gb_window_share, share);
        atomic_store(&gb_window_open, true);
    } else {
        take_off(PYMEM_DOMAIN_MEM, false);
    }
    pthread_mutex_unlock(&swap_mutex);
    return fine;
}

void
gb_window_close_nopy(void)
{
    pthread_mutex_lock(&swap_mutex);
    atomic_store(&gb_window_open, false);
    take_off(PYMEM_DOMAIN_OBJ, false);
    take_off(PYMEM_DOMAIN_MEM, false);
    pthread_mutex_unlock(&swap_mutex);
}

bool
gb_window_is_open(void)
{
    return atomic_load(&gb_window_open);
}

void
gb_hooks_remove(void)
{
    gb_window_close_nopy();
    pthread_mutex_lock(&swap_mutex);
    take_off(PYMEM_DOMAIN_OBJ, true);
    take_off(PYMEM_DOMAIN_MEM, true);
    pthread_mutex_unlock(&swap_mutex);
    PyMemAllocatorEx top;
    PyMem_GetAllocator(PYMEM_DOMAIN_RAW, &top);
    int k = our_slot(GB_RAW_HOOKS, &top);
    if (k >= 0)
        PyMem_SetAllocator(PYMEM_DOMAIN_RAW, &gb_raw_slots[k].below);
}

/* CPython tells of pymalloc only while its own functions are in place. Nobody allocates meanwhile: the GIL is ours. */
void
gb_without_small_hook_gil(void (*call)(void *), void *argument)
{
    pthread_mutex_lock(&swap_mutex);
    PyMemAllocatorEx top;
    PyMem_GetAllocator(PYMEM_DOMAIN_OBJ, &top);
    int k = our_slot(GB_SMALL_HOOKS[PYMEM_DOMAIN_OBJ], &top);
    if (k >= 0)
        PyMem_SetAllocator(PYMEM_DOMAIN_OBJ, &gb_small_slots[PYMEM_DOMAIN_OBJ][k].below);
    call(argument);
    if (k >= 0)
        PyMem_SetAllocator(PYMEM_DOMAIN_OBJ, &top);
    pthread_mutex_unlock(&swap_mutex);
}

/* Nobody may be in the middle of a swap when the process is copied. */
void
gb_hooks_before_fork(void)
{
    pthread_mutex_lock(&swap_mutex);
}

void
gb_hooks_after_fork_parent(void)
{
    pthread_mutex_unlock(&swap_mutex);
}

/* The forking thread's hooks are copied as they were; the schedule's thread is not. */
void
gb_hooks_after_fork_child(void)
{
    pthread_mutex_init(&swap_mutex, NULL);
    atomic_store(&gb_window_open, false);
    gb_tls.ready = false;
    gb_tls.raw_left = 0;
    gb_tls.busy = false;
    gb_tls.excluded = false;
}

/* ---- may we at all -------------------------------------------------------------------------------------------- */

const char *
gb_refusal(void)
{
#ifdef GB_UNSUPPORTED
    return GB_UNSUPPORTED;
#else
    static char text[256];
    if ((Py_Version >> 16) != (PY_VERSION_HEX >> 16)) {
        snprintf(text, sizeof text, "The agent was built for CPython %d.%d and runs in another version; reinstall it.",
                 PY_MAJOR_VERSION, PY_MINOR_VERSION);
        return text;
    }
#ifdef Py_DEBUG
    return "Heap sampling does not run on a debug build of CPython: its allocators add headers to blocks.";
#else
    PyThreadState *ts = PyThreadState_Get();
    if (ts->interp != PyInterpreterState_Main())
        return "Heap sampling runs only in the main interpreter.";
    static const char UNUSUAL[] =
        "Heap sampling needs CPython's ordinary allocator; PYTHONMALLOC, -X dev or another allocator changed it.";
    PyMemAllocatorEx raw, mem, obj;
    PyMem_GetAllocator(PYMEM_DOMAIN_RAW, &raw);
    PyMem_GetAllocator(PYMEM_DOMAIN_MEM, &mem);
    PyMem_GetAllocator(PYMEM_DOMAIN_OBJ, &obj);
    const char *env = getenv("PYTHONMALLOC");
    /* One function of CPython's own for raw and objects is PYTHONMALLOC=malloc, set without the environment. */
    if ((raw.malloc == obj.malloc && from_python(obj.malloc)) || (raw.malloc == mem.malloc && from_python(mem.malloc))
        || (env != NULL && env[0] != '\0' && strcmp(env, "pymalloc") != 0 && strcmp(env, "default") != 0)
        || has_debug_hooks())
        return UNUSUAL;
    PyObject *flags = PySys_GetObject("flags");
    PyObject *dev = flags == NULL ? NULL : PyObject_GetAttrString(flags, "dev_mode");
    bool dev_mode = dev != NULL && PyObject_IsTrue(dev) == 1;
    Py_XDECREF(dev);
    PyErr_Clear();
    if (dev_mode)
        return UNUSUAL;
    return NULL;
#endif
#endif
}
