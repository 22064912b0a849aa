/* dump_hints.c: what the references of an object are called.
 *
 * A traversal says where references lead and nothing else. So before it the names are prepared: attributes, slots, local
 * variables, and what the interpreter's own types have under names of their own, each with the object it leads to. A reference
 * that is then met takes the name of the first that leads to the same object.
 */
#define Py_BUILD_CORE 1
#include "dump.h"

#ifdef GB_DUMP_POSSIBLE

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-parameter"
#pragma GCC diagnostic ignored "-Wsign-compare"
#include <internal/pycore_dict.h>
#include <internal/pycore_frame.h>
#if PY_VERSION_HEX >= 0x030E0000
#include <internal/pycore_interpframe.h>
#endif
#pragma GCC diagnostic pop

static void
hint(PyObject *target, uint32_t name)
{
    gb_dump *d = gb_dump_now;
    if (target != NULL && name != 0 && d->hints < GB_DUMP_HINTS_MAX)
        d->hint[d->hints++] = (gb_dump_hint){target, name};
}

static void
hint_c(PyObject *target, const char *name)
{
    if (target != NULL)
        hint(target, gb_dump_name_of_c(name));
}

uint32_t
gb_dump_hint_for(const PyObject *target)
{
    gb_dump *d = gb_dump_now;
    for (uint32_t i = 0; i < d->hints; i++) {
        /* tp_traverse mostly goes the way the names were prepared, so the next one is tried first. */
        const uint32_t at = d->hint_at + i < d->hints ? d->hint_at + i : d->hint_at + i - d->hints;
        if (d->hint[at].target == target) {
            d->hint[at].target = NULL;
            d->hint_at = at + 1 < d->hints ? at + 1 : 0;
            return d->hint[at].name;
        }
    }
    return 0;
}

static void
hint_values(PyTypeObject *type, const PyDictValues *values)
{
    PyDictKeysObject *keys = ((PyHeapTypeObject *)type)->ht_cached_keys;
    if (keys == NULL || !DK_IS_UNICODE(keys))
        return;
    const PyDictUnicodeEntry *entry = DK_UNICODE_ENTRIES(keys);
    for (Py_ssize_t i = 0; i < keys->dk_nentries; i++) {
        if (values->values[i] != NULL)
            hint(values->values[i], gb_dump_name_of(entry[i].me_key));
    }
}

static void
hint_attributes(PyObject *object, PyTypeObject *type)
{
    PyObject *dict = NULL;
    if (type->tp_flags & Py_TPFLAGS_MANAGED_DICT) {
#if PY_VERSION_HEX >= 0x030D0000
        if (type->tp_flags & Py_TPFLAGS_INLINE_VALUES) {
            /* Behind the object, whose size is the type's: what has a variable one has no such values. */
            const PyDictValues *values = (PyDictValues *)((char *)object + type->tp_basicsize);
            if (values->valid)
                hint_values(type, values);
        }
        dict = ((PyObject **)object)[-3];
#elif PY_VERSION_HEX >= 0x030C0000
        const uintptr_t either = ((uintptr_t *)object)[-3];
        if (either & 1)
            hint_values(type, (PyDictValues *)(either + 1));
        else
            dict = (PyObject *)either;
#else
        const PyDictValues *values = ((PyDictValues **)object)[-4];
        if (values != NULL)
            hint_values(type, values);
        dict = ((PyObject **)object)[-3];
#endif
    } else if (type->tp_dictoffset > 0) {
        dict = *(PyObject **)((char *)object + type->tp_dictoffset);
    }
    hint_c(dict, "__dict__");
    gb_dump_now->attributes_dict = dict;
}

#if PY_VERSION_HEX >= 0x030E0000
#define REFERENCE(x) ((PyObject *)((x).bits & ~(uintptr_t)3))
#else
#define REFERENCE(x) ((PyObject *)(x))
#endif

static void
hint_locals(const _PyInterpreterFrame *frame)
{
#if PY_VERSION_HEX >= 0x030D0000
    PyObject *executable = REFERENCE(frame->f_executable);
#else
    PyObject *executable = (PyObject *)frame->f_code;
#endif
    if (executable == NULL || !PyCode_Check(executable))
        return;
    PyCodeObject *code = (PyCodeObject *)executable;
    for (int i = 0; i < code->co_nlocalsplus && i < PyTuple_GET_SIZE(code->co_localsplusnames); i++)
        hint(REFERENCE(frame->localsplus[i]), gb_dump_name_of(PyTuple_GET_ITEM(code->co_localsplusnames, i)));
}

static void
hint_by_kind(PyObject *object, gb_dump_kind kind)
{
    switch (kind) {
    case GB_KIND_TYPE: {
        PyTypeObject *type = (PyTypeObject *)object;
        hint_c(type->tp_dict, "__dict__");
        hint_c(type->tp_bases, "__bases__");
        break;
    }
    case GB_KIND_FUNCTION: {
        PyFunctionObject *function = (PyFunctionObject *)object;
        hint_c(function->func_code, "__code__");
        hint_c(function->func_defaults, "__defaults__");
        hint_c(function->func_kwdefaults, "__kwdefaults__");
        hint_c(function->func_annotations, "__annotations__");
        break;
    }
    case GB_KIND_CELL:
        hint_c(((PyCellObject *)object)->ob_ref, "cell_contents");
        break;
    case GB_KIND_GENERATOR: {
        PyGenObject *generator = (PyGenObject *)object;
        if (generator->gi_frame_state < FRAME_CLEARED)
            hint_locals((_PyInterpreterFrame *)&generator->gi_iframe);
        break;
    }
    case GB_KIND_FRAME: {
        PyFrameObject *frame = (PyFrameObject *)object;
        hint_c((PyObject *)frame->f_back, "f_back");
        if (frame->f_frame != NULL && frame->f_frame->owner == FRAME_OWNED_BY_FRAME_OBJECT)
            hint_locals(frame->f_frame);
        break;
    }
    case GB_KIND_EXCEPTION: {
        PyBaseExceptionObject *error = (PyBaseExceptionObject *)object;
        hint_c(error->args, "args");
        hint_c(error->traceback, "__traceback__");
        hint_c(error->context, "__context__");
        hint_c(error->cause, "__cause__");
        break;
    }
    case GB_KIND_TRACEBACK:
        hint_c((PyObject *)((PyTracebackObject *)object)->tb_next, "tb_next");
        hint_c((PyObject *)((PyTracebackObject *)object)->tb_frame, "tb_frame");
        break;
    default:
        break;
    }
}

void
gb_dump_hints(PyObject *object, const gb_dump_type *entry)
{
    gb_dump *d = gb_dump_now;
    d->hints = d->hint_at = 0;
    d->attributes_dict = NULL;
    if (!entry->named)
        return;
    for (uint32_t i = 0; i < entry->members; i++) {
        const gb_dump_member *m = &d->member[entry->members_at + i];
        hint(*(PyObject **)((char *)object + m->offset), m->name);
    }
    hint_attributes(object, Py_TYPE(object));
    hint_by_kind(object, entry->kind);
}

#endif
