/* step_tables.c: what is remembered of coroutine functions, and of coroutines that are on their way.
 *
 * A function is its code object, with one strong reference, and two histograms: of its steps, and of the lives of its
 * coroutines by how they ended. A coroutine is its address: a row that outlives it is harmless, because whatever is
 * created there anew is told apart by not having begun. Both tables have a bound, and a counter for what found no room.
 *
 * Everything here is under the GIL of the main interpreter, and only steps_take() runs Python code.
 */
#include "steps.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define INDEX_SLOTS 4096u
#define FUNCTION_IDLE_NS UINT64_C(600000000000)    /* functions that did nothing for so long are given up ... */
#define FUNCTIONS_MANY (GB_STEP_FUNCTIONS_MAX / 2) /* ... and when there are so many, after one take without a step */

static const char *const ENDINGS[GB_ENDED_KINDS] = {"ok", "error", "cancelled", "thrown"};

gb_step_function *gb_step_functions[GB_STEP_FUNCTIONS_MAX + 1];
uint32_t gb_step_functions_used, gb_step_coroutines_used;
uint64_t gb_step_functions_dropped, gb_step_coroutines_dropped, gb_step_thrown;

static uint16_t function_index[INDEX_SLOTS];
static uint32_t free_from = 1; /* no number below is free */
static uint32_t serials;       /* goes on after a fork and a restart; 0 is none */

gb_step_ended gb_steps_ended[GB_STEPS_ENDED_MAX];
uint32_t gb_steps_ended_used;
static gb_step_coroutine *coroutines;
static size_t endings_used;

int
gb_step_tables_map(void)
{
    _Static_assert(sizeof(gb_step_coroutine) == 64, "one row is one line of memory");
    if (coroutines != NULL)
        return 0;
    void *p = mmap(NULL, GB_STEP_COROUTINE_SLOTS * sizeof(gb_step_coroutine), PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) {
        PyErr_SetFromErrno(PyExc_OSError);
        return -1;
    }
    coroutines = p;
    return 0;
}

size_t
gb_step_tables_bytes(void)
{
    return sizeof gb_step_functions + sizeof function_index + sizeof gb_step_records
           + (coroutines == NULL ? 0 : GB_STEP_COROUTINE_SLOTS * sizeof(gb_step_coroutine))
           + gb_step_functions_used * sizeof(gb_step_function) + endings_used * sizeof(gb_step_ending);
}

/* ---- functions ------------------------------------------------------------------------------------------------- */

static inline uint32_t
function_home(const void *code)
{
    return (uint32_t)(gb_hash_pointer(code) >> 52);
}

static void
index_function(uint32_t function)
{
    uint32_t i = function_home(gb_step_functions[function]->code);
    while (function_index[i] != 0)
        i = (i + 1) & (INDEX_SLOTS - 1);
    function_index[i] = (uint16_t)function;
}

uint32_t
gb_step_function_of(PyCodeObject *code)
{
    uint32_t i = function_home(code);
    for (; function_index[i] != 0; i = (i + 1) & (INDEX_SLOTS - 1)) {
        if (gb_step_functions[function_index[i]]->code == code)
            return function_index[i];
    }
    while (free_from <= GB_STEP_FUNCTIONS_MAX && gb_step_functions[free_from] != NULL)
        free_from++;
    /* What every step writes is the row's first line. */
    gb_step_function *f = free_from > GB_STEP_FUNCTIONS_MAX ? NULL : aligned_alloc(64, (sizeof(*f) + 63) / 64 * 64);
    if (f == NULL)
        return 0;
    memset(f, 0, sizeof(*f));
    Py_INCREF(code);
    f->code = code;
    f->serial = ++serials;
    uint32_t function = free_from++;
    gb_step_functions[function] = f;
    gb_step_functions_used++;
    function_index[i] = (uint16_t)function;
    return function;
}

PyCodeObject *
gb_step_function_code(uint32_t function, uint32_t serial)
{
    gb_step_function *f = function > GB_STEP_FUNCTIONS_MAX ? NULL : gb_step_functions[function];
    return f != NULL && f->serial == serial ? f->code : NULL;
}

void
gb_steps_settle(uint64_t used_ns)
{
    uint32_t used = gb_steps_ended_used;
    gb_steps_ended_used = 0;
    gb_steps_counted += used;
    for (uint32_t i = 0; i < used; i++) {
        const gb_step_ended *e = &gb_steps_ended[i];
        gb_step_function *f = gb_step_functions[e->function / 2];
        if (f == NULL || f->serial != e->serial)
            continue;
        f->steps++;
        f->bare_yields += e->function & 1;
        f->busy_ns += e->busy_ns;
        f->used_ns = used_ns;
        if (e->busy_ns > f->step_ns_max)
            f->step_ns_max = e->busy_ns;
        f->histogram.counts[gb_bucket_nopy(e->busy_ns)]++;
    }
}

static void
count_ending(gb_step_function *f, unsigned status, uint64_t lifetime_ns, uint64_t busy_ns)
{
    gb_step_ending *e = f->ended[status];
    if (e == NULL) {
        e = f->ended[status] = calloc(1, sizeof(*e));
        if (e == NULL)
            return;
        endings_used++;
    }
    e->min_ns = e->count == 0 || lifetime_ns < e->min_ns ? lifetime_ns : e->min_ns;
    e->max_ns = lifetime_ns > e->max_ns ? lifetime_ns : e->max_ns;
    e->count++;
    e->lifetime_ns += lifetime_ns;
    e->busy_ns += busy_ns;
    e->histogram.counts[gb_bucket_nopy(lifetime_ns)]++;
}

/* ---- coroutines ------------------------------------------------------------------------------------------------ */

static inline uint32_t
coroutine_home(const void *coroutine)
{
    return (uint32_t)(gb_hash_pointer(coroutine) >> 50);
}

gb_step_coroutine *
gb_step_coroutine_find(const void *coroutine)
{
    uint32_t i = coroutine_home(coroutine);
    while (coroutines[i].coroutine != coroutine) {
        if (coroutines[i].coroutine == NULL)
            return NULL;
        i = (i + 1) & (GB_STEP_COROUTINE_SLOTS - 1);
    }
    return &coroutines[i];
}

gb_step_coroutine *
gb_step_coroutine_add(const void *coroutine, uint32_t function, uint64_t now, bool late)
{
    if (gb_step_coroutines_used == GB_STEP_COROUTINES_MAX)
        return NULL;
    uint32_t i = coroutine_home(coroutine);
    while (coroutines[i].coroutine != NULL)
        i = (i + 1) & (GB_STEP_COROUTINE_SLOTS - 1);
    gb_step_coroutines_used++;
    if (function != 0)
        gb_step_functions[function]->coroutines++;
    gb_step_coroutine *c = &coroutines[i];
    const gb_step_function *f = gb_step_functions[function];
    *c = (gb_step_coroutine){.coroutine = coroutine,
                             .first_ns = now,
                             .function = (uint16_t)function,
                             .late = late,
                             .serial = f == NULL ? 0 : f->serial,
                             .code = f == NULL ? NULL : f->code};
    return c;
}

/* Deletion by shifting back: what comes after and could sit here is moved here, so no look-up meets a hole. */
static void
remove_slot(gb_step_coroutine *c)
{
    uint32_t hole = (uint32_t)(c - coroutines);
    for (uint32_t i = (hole + 1) & (GB_STEP_COROUTINE_SLOTS - 1); coroutines[i].coroutine != NULL;
         i = (i + 1) & (GB_STEP_COROUTINE_SLOTS - 1)) {
        uint32_t home = coroutine_home(coroutines[i].coroutine);
        uint32_t way = (i - home) & (GB_STEP_COROUTINE_SLOTS - 1);
        if (way < ((i - hole) & (GB_STEP_COROUTINE_SLOTS - 1)))
            continue; /* its home lies behind the hole */
        coroutines[hole] = coroutines[i];
        hole = i;
    }
    coroutines[hole].coroutine = NULL;
    gb_step_coroutines_used--;
}

void
gb_step_coroutine_end(gb_step_coroutine *c, unsigned status, uint64_t now)
{
    gb_step_function *f = gb_step_functions[c->function];
    if (f != NULL) {
        f->coroutines--;
        if (!c->late)
            count_ending(f, status, now > c->first_ns ? now - c->first_ns : 0, c->busy_ns);
    }
    gb_step_thrown += status == GB_ENDED_THROWN;
    remove_slot(c);
}

void
gb_step_coroutines_keep_newer(uint64_t ns)
{
    for (uint32_t i = 0; i < GB_STEP_COROUTINE_SLOTS; i++)
        coroutines[i].kept = coroutines[i].start_ns >= ns;
}

uint32_t
gb_step_coroutines_end_unkept(void)
{
    uint32_t count = 0;
    /* A removal moves later rows here, or rows from the table's end to its beginning; so look again until none is left. */
    for (bool found = true; found;) {
        found = false;
        for (uint32_t i = 0; i < GB_STEP_COROUTINE_SLOTS; i++) {
            while (coroutines[i].coroutine != NULL && !coroutines[i].kept) {
                gb_step_coroutine *c = &coroutines[i];
                gb_step_coroutine_end(c, GB_ENDED_THROWN, c->end_ns > c->first_ns ? c->end_ns : c->first_ns);
                count++;
                found = true;
            }
        }
    }
    return count;
}

/* ---- reading out ----------------------------------------------------------------------------------------------- */

static int
append_ending(PyObject *list, unsigned status, const gb_step_ending *e)
{
    int offset;
    PyObject *counts;
    if (gb_histogram_to_python(&e->histogram, &offset, &counts) < 0)
        return -1;
    PyObject *row = Py_BuildValue("(sKKKKKiN)", ENDINGS[status], (unsigned long long)e->count,
                                  (unsigned long long)e->lifetime_ns, (unsigned long long)e->busy_ns,
                                  (unsigned long long)e->min_ns, (unsigned long long)e->max_ns, offset, counts);
    int result = row == NULL ? -1 : PyList_Append(list, row);
    Py_XDECREF(row);
    return result;
}

static PyObject *
row_of(const gb_step_function *f)
{
    PyObject *ended = PyList_New(0);
    if (ended == NULL)
        return NULL;
    for (unsigned status = 0; status < GB_ENDED_KINDS; status++) {
        if (f->ended[status] != NULL && append_ending(ended, status, f->ended[status]) < 0) {
            Py_DECREF(ended);
            return NULL;
        }
    }
    int offset;
    PyObject *counts;
    if (gb_histogram_to_python(&f->histogram, &offset, &counts) < 0) {
        Py_DECREF(ended);
        return NULL;
    }
    return Py_BuildValue("(OKKKiNKN)", f->code, (unsigned long long)f->steps, (unsigned long long)f->bare_yields,
                         (unsigned long long)f->busy_ns, offset, counts, (unsigned long long)f->step_ns_max, ended);
}

static void
free_endings(gb_step_function *f)
{
    for (unsigned status = 0; status < GB_ENDED_KINDS; status++) {
        endings_used -= f->ended[status] != NULL;
        free(f->ended[status]);
    }
}

/* Steps that run now may hold the number: they compare the serial before they use it. */
static void
give_up(uint32_t function)
{
    gb_step_function *f = gb_step_functions[function];
    gb_step_functions[function] = NULL;
    gb_step_functions_used--;
    free_from = function < free_from ? function : free_from;
    memset(function_index, 0, sizeof function_index);
    for (uint32_t i = 1; i <= GB_STEP_FUNCTIONS_MAX; i++) {
        if (gb_step_functions[i] != NULL)
            index_function(i);
    }
    PyCodeObject *code = f->code;
    free_endings(f);
    free(f);
    Py_DECREF(code); /* last: it may run Python code, through weak references */
}

PyObject *
gb_step_functions_take(bool all)
{
    PyObject *rows = PyList_New(0);
    gb_step_function *f = malloc(sizeof(*f));
    if (rows == NULL || f == NULL) {
        free(f);
        Py_XDECREF(rows);
        return PyErr_NoMemory();
    }
    uint64_t now = gb_monotonic_ns();
    gb_steps_settle(now);
    for (uint32_t i = 1; i <= GB_STEP_FUNCTIONS_MAX; i++) {
        if (gb_step_functions[i] == NULL)
            continue;
        gb_step_function *live = gb_step_functions[i];
        bool ended = false;
        for (unsigned status = 0; status < GB_ENDED_KINDS; status++)
            ended |= live->ended[status] != NULL;
        bool idle = live->steps == 0 && !ended;
        if (rows != NULL && !idle) {
            /* What is built below may run a collection, and so steps: first take it, then build. */
            *f = *live;
            Py_INCREF(f->code);
            live->steps = live->bare_yields = live->busy_ns = live->step_ns_max = 0;
            memset(live->ended, 0, sizeof live->ended);
            memset(&live->histogram, 0, sizeof live->histogram);
            PyObject *row = row_of(f);
            if (row == NULL || PyList_Append(rows, row) < 0)
                Py_CLEAR(rows);
            Py_XDECREF(row);
            free_endings(f);
            Py_DECREF(f->code);
            live = gb_step_functions[i]; /* a take inside a collection may have given it up */
        }
        bool many = gb_step_functions_used > FUNCTIONS_MANY;
        if (live != NULL
            && (all || (live->coroutines == 0 && idle && (many || now - live->used_ns > FUNCTION_IDLE_NS))))
            give_up(i);
    }
    free(f);
    return rows;
}

void
gb_step_tables_forget(bool child)
{
    if (child)
        gb_steps_ended_used = 0;
    else
        gb_steps_settle(gb_monotonic_ns());
    for (uint32_t i = 1; i <= GB_STEP_FUNCTIONS_MAX; i++) {
        if (gb_step_functions[i] == NULL)
            continue;
        if (!child) {
            gb_step_functions[i]->coroutines = 0;
            continue;
        }
        free_endings(gb_step_functions[i]);
        free(gb_step_functions[i]);
        gb_step_functions[i] = NULL;
    }
    if (child) {
        memset(function_index, 0, sizeof function_index);
        gb_step_functions_used = 0;
        free_from = 1;
    }
    gb_step_coroutines_used = 0;
    /* Dropping the pages empties the table without copying one of the parent's. */
    size_t bytes = GB_STEP_COROUTINE_SLOTS * sizeof(gb_step_coroutine);
    if (coroutines != NULL && madvise(coroutines, bytes, MADV_DONTNEED) != 0)
        memset(coroutines, 0, bytes);
}
