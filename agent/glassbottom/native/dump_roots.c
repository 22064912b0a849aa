/* dump_roots.c: where a heap dump's references begin: frames of running threads, and what the interpreter itself holds.
 *
 * What else holds objects without being one, a variable of C's or a thread in the middle of a call, shows itself to the reader: more
 * references are counted in the object than the file has.
 */
#define Py_BUILD_CORE 1
#include "dump.h"

#ifdef GB_DUMP_POSSIBLE

#include <stdio.h>
#include <string.h>

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-parameter"
#pragma GCC diagnostic ignored "-Wsign-compare"
#include <internal/pycore_frame.h>
#include <internal/pycore_interp.h>
#if PY_VERSION_HEX >= 0x030E0000
#include <internal/pycore_interpframe.h>
#endif
#pragma GCC diagnostic pop

#define THREADS_MAX 4096
#define FRAMES_MAX 2000
#define LOCALS_MAX 1000
#define CALLBACKS_MAX 100000
#define ROOT_INTERPRETER 1u
#define ROOT_THREAD 3u
#define ROOT_OTHER 4u
#define NO_LINE 0

void
gb_dump_root(unsigned kind, const void *address, const char *text)
{
    uint8_t payload[GB_DUMP_TEXT_BYTES_MAX + 24];
    size_t bytes = gb_varint(payload, kind);
    bytes += gb_varint(payload + bytes, (uintptr_t)address);
    bytes += gb_dump_text(payload + bytes, text, strnlen(text, GB_DUMP_TEXT_BYTES_MAX));
    gb_dump_record('R', payload, bytes, NULL, 0);
}

static void
root(unsigned kind, PyObject *object, const char *text)
{
    if (object == NULL)
        return;
    gb_dump_root(kind, object, text);
    gb_dump_reached(object);
}

#if PY_VERSION_HEX >= 0x030D0000
typedef managed_static_type_state type_state;
#elif PY_VERSION_HEX >= 0x030C0000
typedef static_builtin_state type_state;
#endif

#if PY_VERSION_HEX >= 0x030C0000
/* What a type that is built in keeps per interpreter; NULL for every other. The number of its place stands where other types have
 * their subclasses. */
static const type_state *
state_of(PyTypeObject *type)
{
    if (!(type->tp_flags & _Py_TPFLAGS_STATIC_BUILTIN))
        return NULL;
    const struct types_state *types = &gb_dump_now->interp->types;
    const size_t index = (size_t)type->tp_subclasses - 1;
#if PY_VERSION_HEX >= 0x030D0000
    const type_state *states = types->builtins.initialized;
    const size_t count = sizeof types->builtins.initialized / sizeof *types->builtins.initialized;
#else
    const type_state *states = types->builtins;
    const size_t count = sizeof types->builtins / sizeof *types->builtins;
#endif
    return index < count && states[index].type == type ? &states[index] : NULL;
}
#endif

PyObject *
gb_dump_static_dict(PyTypeObject *type)
{
#if PY_VERSION_HEX >= 0x030C0000
    const type_state *state = state_of(type);
    if (state != NULL)
        return state->tp_dict;
#endif
    return type->tp_dict;
}

PyObject *
gb_dump_subclasses(PyTypeObject *type)
{
#if PY_VERSION_HEX >= 0x030C0000
    const type_state *state = state_of(type);
    if (state != NULL)
        return state->tp_subclasses;
    if (type->tp_flags & _Py_TPFLAGS_STATIC_BUILTIN)
        return NULL;
#endif
    return type->tp_subclasses;
}

/* ---- frames ----------------------------------------------------------------------------------------------------- */

typedef struct {
    const uint8_t *at, *end;
} table;

static uint64_t
read_varint(table *t)
{
    uint64_t value = 0;
    for (unsigned shift = 0; t->at < t->end && shift < 60; shift += 6) {
        const uint8_t byte = *t->at++;
        value |= (uint64_t)(byte & 63) << shift;
        if (!(byte & 64))
            break;
    }
    return value;
}

static int64_t
read_signed(table *t)
{
    const uint64_t value = read_varint(t);
    return value & 1 ? -(int64_t)(value >> 1) : (int64_t)(value >> 1);
}

/* The line of an instruction. Python's own way to it may allocate. The table is described in Objects/locations.md: an entry begins
 * with a byte whose high bit is set, says for how many units of code it speaks, and by how much the line differs. */
static uint64_t
line_of(PyCodeObject *code, int64_t unit)
{
    if (code->co_linetable == NULL || !PyBytes_Check(code->co_linetable))
        return NO_LINE;
    const uint8_t *start = (const uint8_t *)PyBytes_AS_STRING(code->co_linetable);
    table t = {start, start + PyBytes_GET_SIZE(code->co_linetable)};
    int64_t line = code->co_firstlineno, covered = 0;
    while (t.at < t.end) {
        const uint8_t first = *t.at++;
        const int kind = (first >> 3) & 15;
        bool has_line = true;
        if (kind == 15)
            has_line = false;
        else if (kind == 14 || kind == 13)
            line += read_signed(&t);
        else if (kind >= 10)
            line += kind - 10;
        covered += (first & 7) + 1;
        if (unit < covered)
            return has_line && line > 0 ? (uint64_t)line : NO_LINE;
        while (t.at < t.end && !(*t.at & 0x80))
            t.at++;
    }
    return NO_LINE;
}

#if PY_VERSION_HEX >= 0x030E0000
#define REFERENCE(x) (((x).bits & 3) == 3 ? NULL : (PyObject *)((x).bits & ~(uintptr_t)3)) /* 3: a number, no object */
#else
#define REFERENCE(x) ((PyObject *)(x))
#endif

PyCodeObject *
gb_dump_code_of(const void *which)
{
    const _PyInterpreterFrame *frame = which;
#if PY_VERSION_HEX >= 0x030E0000
    PyObject *executable = frame->owner >= FRAME_OWNED_BY_INTERPRETER ? NULL : REFERENCE(frame->f_executable);
#elif PY_VERSION_HEX >= 0x030D0000
    PyObject *executable = frame->owner == FRAME_OWNED_BY_CSTACK ? NULL : frame->f_executable;
#elif PY_VERSION_HEX >= 0x030C0000
    PyObject *executable = frame->owner == FRAME_OWNED_BY_CSTACK ? NULL : (PyObject *)frame->f_code;
#else
    PyObject *executable = (PyObject *)frame->f_code;
#endif
    return executable != NULL && PyCode_Check(executable) ? (PyCodeObject *)executable : NULL;
}

static void
put_frame(const PyThreadState *ts, const _PyInterpreterFrame *frame, PyCodeObject *code)
{
    gb_dump *d = gb_dump_now;
#if PY_VERSION_HEX >= 0x030D0000
    const _Py_CODEUNIT *at = frame->instr_ptr;
#else
    const _Py_CODEUNIT *at = frame->prev_instr;
#endif
#if PY_VERSION_HEX >= 0x030C0000
    PyObject *function = REFERENCE(frame->f_funcobj);
#else
    PyObject *function = (PyObject *)frame->f_func;
#endif
    uint8_t head[2 * (GB_DUMP_TEXT_BYTES_MAX + 2) + 40];
    size_t bytes = gb_varint(head, ts->thread_id);
    bytes += gb_dump_text_of(head + bytes, code->co_qualname);
    bytes += gb_dump_text_of(head + bytes, code->co_filename);
    bytes += gb_varint(head + bytes, line_of(code, at - _PyCode_CODE(code)));
    PyObject *const held[] = {(PyObject *)code, function, frame->f_locals, (PyObject *)frame->frame_obj};
    PyObject *targets[LOCALS_MAX + 4];
    uint32_t names[LOCALS_MAX + 4];
    size_t count = 0;
    for (int i = 0; i < code->co_nlocalsplus && i < PyTuple_GET_SIZE(code->co_localsplusnames) && i < LOCALS_MAX; i++) {
        PyObject *local = REFERENCE(frame->localsplus[i]);
        if (local == NULL)
            continue;
        targets[count] = local;
        names[count++] = gb_dump_name_of(PyTuple_GET_ITEM(code->co_localsplusnames, i));
    }
    for (size_t i = 0; i < sizeof held / sizeof *held; i++) {
        if (held[i] != NULL) {
            targets[count] = held[i];
            names[count++] = 0;
        }
    }
    bytes += gb_varint(head + bytes, count);
    size_t tail = 0;
    for (size_t i = 0; i < count; i++) {
        tail += gb_varint(d->edge + tail, (uintptr_t)targets[i]);
        tail += gb_varint(d->edge + tail, names[i]);
    }
    gb_dump_record('F', head, bytes, d->edge, tail);
    for (size_t i = 0; i < count; i++)
        gb_dump_reached(targets[i]);
}

static void
put_thread(PyThreadState *ts)
{
#if PY_VERSION_HEX >= 0x030D0000
    const _PyInterpreterFrame *frame = ts->current_frame;
#else
    const _PyInterpreterFrame *frame = ts->cframe == NULL ? NULL : ts->cframe->current_frame;
#endif
    for (int i = 0; frame != NULL && i < FRAMES_MAX; i++, frame = frame->previous) {
        PyCodeObject *code = gb_dump_code_of(frame);
        if (code != NULL) {
            put_frame(ts, frame, code);
            gb_dump_pending();
        }
    }
    root(ROOT_THREAD, ts->dict, "values of a thread");
    root(ROOT_THREAD, ts->context, "context of a thread");
    root(ROOT_THREAD, ts->exc_state.exc_value, "exception a thread handles");
#if PY_VERSION_HEX >= 0x030C0000
    root(ROOT_THREAD, ts->current_exception, "exception a thread raises");
#else
    root(ROOT_THREAD, ts->curexc_value, "exception a thread raises");
#endif
    root(ROOT_THREAD, ts->c_profileobj, "profile function of a thread");
    root(ROOT_THREAD, ts->c_traceobj, "trace function of a thread");
    gb_dump_pending();
}

/* ---- the interpreter -------------------------------------------------------------------------------------------- */

static void
put_atexit(PyInterpreterState *interp)
{
#if PY_VERSION_HEX >= 0x030E0000
    root(ROOT_OTHER, interp->atexit.callbacks, "atexit");
#else
    for (int i = 0; i < interp->atexit.ncallbacks && i < CALLBACKS_MAX; i++) {
        if (interp->atexit.callbacks[i] == NULL)
            continue;
        root(ROOT_OTHER, interp->atexit.callbacks[i]->func, "atexit");
        root(ROOT_OTHER, interp->atexit.callbacks[i]->args, "atexit");
        root(ROOT_OTHER, interp->atexit.callbacks[i]->kwargs, "atexit");
    }
#endif
}

void
gb_dump_roots(void)
{
    PyInterpreterState *interp = gb_dump_now->interp;
#if PY_VERSION_HEX >= 0x030C0000
    root(ROOT_INTERPRETER, interp->imports.modules, "sys.modules");
#else
    root(ROOT_INTERPRETER, interp->modules, "sys.modules");
#endif
    root(ROOT_INTERPRETER, interp->sysdict, "sys");
    root(ROOT_INTERPRETER, interp->builtins, "builtins");
    root(ROOT_INTERPRETER, interp->dict, "interpreter");
    root(ROOT_OTHER, interp->before_forkers, "os.register_at_fork");
    root(ROOT_OTHER, interp->after_forkers_parent, "os.register_at_fork");
    root(ROOT_OTHER, interp->after_forkers_child, "os.register_at_fork");
    root(ROOT_OTHER, interp->audit_hooks, "sys.addaudithook");
    root(ROOT_OTHER, interp->gc.garbage, "gc.garbage");
    root(ROOT_OTHER, interp->gc.callbacks, "gc.callbacks");
    put_atexit(interp);
    gb_dump_pending();
    PyThreadState *ts = gb_dump_now->threads;
    for (int i = 0; ts != NULL && i < THREADS_MAX; i++, ts = ts->next)
        put_thread(ts);
}

#endif
