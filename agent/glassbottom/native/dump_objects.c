/* dump_objects.c: one object of a heap dump: its references, and what they are called.
 *
 * References are found by the type's own tp_traverse, as the collector of cycles finds them. It says nothing of names, so names are
 * prepared before: attributes, slots, local variables, each with the object it leads to; a reference found then takes the name
 * of the first that leads to the same object. What tp_traverse leaves out because it cannot be part of a cycle is read from the
 * object itself: keys of dicts that are text, code objects, what a NumPy array shares.
 *
 * Objects outside the collector's lists are met through whoever refers to them. They are written after it, at once, so that a
 * list of a million strings needs no memory here; only chains of such objects deeper than GB_DUMP_DEPTH_MAX wait in a
 * list, which has an end, and what it has no room for is counted as lost.
 */
#define Py_BUILD_CORE 1
#include "dump.h"

#ifdef GB_DUMP_POSSIBLE

#include <string.h>

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-parameter"
#pragma GCC diagnostic ignored "-Wsign-compare"
#include <internal/pycore_dict.h>
#include <internal/pycore_gc.h>
#include <internal/pycore_frame.h>
#if PY_VERSION_HEX >= 0x030E0000
#include <internal/pycore_interpframe.h>
#endif
#pragma GCC diagnostic pop

#define IMMORTAL_REFERENCES 500000000
#define KEYS_ASKED 4 /* of a dict's keys, to see whether they are names */
#define NUMPY_OBJECT 17
#define DESCRIPTION_TYPE_NUMBER_AT 28

bool
gb_dump_is_tracked(PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);
    if (!(type->tp_flags & Py_TPFLAGS_HAVE_GC))
        return false;
    if (type->tp_flags & Py_TPFLAGS_TYPE_SUBCLASS) {
        if (!(((PyTypeObject *)object)->tp_flags & Py_TPFLAGS_HEAPTYPE))
            return false;
    } else if (type->tp_is_gc != NULL && !type->tp_is_gc(object)) {
        return false;
    }
    return ((PyGC_Head *)object - 1)->_gc_next != 0;
}

static bool
is_immortal(PyObject *object)
{
#if PY_VERSION_HEX >= 0x030C0000
    return _Py_IsImmortal(object);
#else
    return Py_REFCNT(object) > IMMORTAL_REFERENCES; /* what is built into the interpreter has a count nobody reaches */
#endif
}

/* ---- the record ------------------------------------------------------------------------------------------------- */

static uintptr_t *
seen_slot(const PyObject *object)
{
    return &gb_dump_now->seen[gb_hash_pointer(object) >> 44];
}

static void
begin(PyObject *object, uint32_t type, unsigned flags)
{
    gb_dump *d = gb_dump_now;
    const gb_dump_type *entry = &d->type[type];
    size_t length = 0;
    if (gb_dump_length(object, entry->kind, &length))
        flags |= GB_DUMP_HAS_LENGTH;
    if (gb_dump_is_tracked(object))
        flags |= GB_DUMP_TRACKED;
    if (is_immortal(object))
        flags |= GB_DUMP_IMMORTAL;
    d->object = object;
    d->flags = flags;
    d->head_written = false;
    d->edge_count = 0;
    d->edge_bytes = 0;
    size_t n = gb_varint(d->head, gb_zigzag((int64_t)((uintptr_t)object - d->previous)));
    n += gb_varint(d->head + n, type);
    n += gb_varint(d->head + n, flags);
    n += gb_varint(d->head + n, gb_dump_size(object, entry));
    n += gb_varint(d->head + n, flags & GB_DUMP_IMMORTAL || Py_REFCNT(object) < 0 ? 0 : (uint64_t)Py_REFCNT(object));
    if (flags & GB_DUMP_HAS_LENGTH)
        n += gb_varint(d->head + n, length);
    d->head_bytes = n;
}

/* Writes the references so far, with the object before the first of them. */
static void
put_edges(void)
{
    gb_dump *d = gb_dump_now;
    if (d->head_written)
        d->head_bytes = 0;
    d->head_bytes += gb_varint(d->head + d->head_bytes, d->edge_count);
    gb_dump_record(d->head_written ? 'E' : 'O', d->head, d->head_bytes, d->edge, d->edge_bytes);
    if (!d->head_written) {
        d->previous = (uintptr_t)d->object;
        d->objects++;
        d->head_written = true;
    }
    d->edges += d->edge_count;
    d->edge_count = 0;
    d->edge_bytes = 0;
    d->steps++;
    if (gb_monotonic_ns() > d->ends_ns && d->stop == GB_DUMP_COMPLETE)
        d->stop = GB_DUMP_TOO_LONG;
}

static bool
is_to_be_written(PyObject *target)
{
    return !gb_dump_is_tracked(target) && *seen_slot(target) != (uintptr_t)target;
}

static void
edge(PyObject *target, uint32_t name)
{
    gb_dump *d = gb_dump_now;
    if (d->edge_count == GB_DUMP_EDGES_MAX)
        put_edges();
    uint8_t *at = d->edge + d->edge_bytes;
    size_t n = gb_varint(at, gb_zigzag((int64_t)((uintptr_t)target - (uintptr_t)d->object)));
    if (d->flags & GB_DUMP_NAMED)
        n += gb_varint(at + n, name);
    d->edge_bytes += n;
    d->edge_count++;
    if (is_to_be_written(target)) {
        if (d->targets_used < GB_DUMP_TARGETS_MAX)
            d->targets[d->targets_used++] = target;
        else
            d->targets_missed = true;
    }
}

/* ---- names ------------------------------------------------------------------------------------------------------ */

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

static uint32_t
name_for(const PyObject *target)
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

static void
prepare_names(PyObject *object, const gb_dump_type *entry)
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

/* ---- references ------------------------------------------------------------------------------------------------- */

typedef struct {
    PyDictKeysObject *keys;
    PyDictValues *values;
    Py_ssize_t at;
} dict_walk;

static dict_walk
walk_dict(PyObject *object)
{
    PyDictObject *dict = (PyDictObject *)object;
    return (dict_walk){dict->ma_keys, dict->ma_values, 0};
}

static bool
next_item(dict_walk *walk, PyObject **key, PyObject **value)
{
    for (; walk->at < walk->keys->dk_nentries; walk->at++) {
        if (!DK_IS_UNICODE(walk->keys)) {
            const PyDictKeyEntry *entry = &DK_ENTRIES(walk->keys)[walk->at];
            *key = entry->me_key;
            *value = entry->me_value;
        } else {
            const PyDictUnicodeEntry *entry = &DK_UNICODE_ENTRIES(walk->keys)[walk->at];
            *key = entry->me_key;
            *value = walk->values != NULL ? walk->values->values[walk->at] : entry->me_value;
        }
        if (*key != NULL && *value != NULL) {
            walk->at++;
            return true;
        }
    }
    return false;
}

/* Values that lie in another object belong to that: 3.13 and later. */
static bool
holds_its_values(PyObject *object)
{
#if PY_VERSION_HEX >= 0x030D0000
    const PyDictValues *values = ((PyDictObject *)object)->ma_values;
    return values == NULL || !values->embedded;
#else
    (void)object;
    return true;
#endif
}

static bool
has_names(PyObject *object)
{
    dict_walk walk = walk_dict(object);
    PyObject *key, *value;
    int asked = 0, named = 0;
    while (asked < KEYS_ASKED && next_item(&walk, &key, &value)) {
        asked++;
        named += gb_dump_name_of(key) != 0;
    }
    return named > 0 && 2 * named >= asked;
}

static void
dict_edges(PyObject *object)
{
    gb_dump *d = gb_dump_now;
    dict_walk walk = walk_dict(object);
    PyObject *key, *value;
    const bool values = holds_its_values(object);
    if (!(d->flags & GB_DUMP_NAMED)) {
        while (next_item(&walk, &key, &value)) {
            edge(key, 0);
            edge(value, 0);
        }
        return;
    }
    while (values && next_item(&walk, &key, &value))
        edge(value, gb_dump_name_of(key));
    /* Keys shared with the type belong to it. */
    if (((PyDictObject *)object)->ma_values != NULL)
        return;
    walk = walk_dict(object);
    while (next_item(&walk, &key, &value))
        edge(key, 0);
}

static void
item_edges(PyObject *const *items, Py_ssize_t count)
{
    for (Py_ssize_t i = 0; i < count; i++) {
        if (items[i] != NULL) /* a list or tuple still being filled */
            edge(items[i], 0);
    }
}

static void
code_edges(PyCodeObject *code)
{
    PyObject *const parts[] = {code->co_consts,          code->co_names,     code->co_localsplusnames,
                               code->co_localspluskinds, code->co_filename,  code->co_name,
                               code->co_qualname,        code->co_linetable, code->co_exceptiontable};
    static const char *const names[] = {"co_consts", "co_names",    NULL, NULL, "co_filename",
                                        "co_name",   "co_qualname", NULL, NULL};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        if (parts[i] != NULL)
            edge(parts[i], gb_dump_name_of_c(names[i]));
    }
}

static void
static_type_edges(PyTypeObject *type)
{
    const struct {
        PyObject *target;
        const char *name;
    } parts[] = {{gb_dump_static_dict(type), "__dict__"},
                 {type->tp_bases, "__bases__"},
                 {type->tp_mro, "__mro__"},
                 {gb_dump_subclasses(type), "__subclasses__"}};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        if (parts[i].target != NULL)
            edge(parts[i].target, gb_dump_name_of_c(parts[i].name));
    }
}

/* An array tells the collector nothing, neither whose memory it shows nor the objects in it. */
static void
ndarray_edges(PyObject *object)
{
    gb_dump_ndarray array;
    memcpy(&array, object, sizeof array);
    if (array.base != NULL)
        edge(array.base, gb_dump_name_of_c("base"));
    if (array.description == NULL)
        return;
    edge(array.description, gb_dump_name_of_c("dtype"));
    int type_number;
    memcpy(&type_number, (char *)array.description + DESCRIPTION_TYPE_NUMBER_AT, sizeof type_number);
    if (type_number != NUMPY_OBJECT || !(array.flags & GB_NDARRAY_OWNS_DATA) || !(array.flags & GB_NDARRAY_CONTIGUOUS))
        return;
    int64_t count = 1;
    for (int i = 0; i < array.dimensions_count; i++)
        count *= array.dimensions[i];
    item_edges((PyObject *const *)array.data, (Py_ssize_t)count);
}

static int
visit(PyObject *target, void *argument)
{
    (void)argument;
    if (target != NULL)
        edge(target, name_for(target));
    return gb_dump_now->stop != GB_DUMP_COMPLETE;
}

typedef struct {
    dict_walk walk;
    PyObject *key, *value; /* the item to come; a half that came already is NULL */
} dict_expected;

/* Of a dict that is more than a dict: its items were written, so what tp_traverse says of them is passed over once. Keys that are
 * text are not said. */
static int
visit_but_items(PyObject *target, void *argument)
{
    dict_expected *expected = argument;
    if (target == NULL)
        return 0;
    const bool says_keys = !DK_IS_UNICODE(expected->walk.keys);
    if (expected->value == NULL && (expected->key == NULL || !says_keys)
        && !next_item(&expected->walk, &expected->key, &expected->value))
        expected->key = expected->value = NULL;
    if (target == expected->value) {
        expected->value = NULL;
        return 0;
    }
    if (says_keys && target == expected->key) {
        expected->key = NULL;
        return 0;
    }
    return visit(target, NULL);
}

static void
traverse(PyObject *object, uint32_t type, visitproc visitor, void *argument)
{
    gb_dump *d = gb_dump_now;
    const traverseproc look = Py_TYPE(object)->tp_traverse;
    if (look == NULL || d->type[type].broken)
        return;
    if (PyType_Check(object) && !(((PyTypeObject *)object)->tp_flags & Py_TPFLAGS_HEAPTYPE))
        return; /* the interpreter would end the process over that */
    d->looking_at = type + 1;
    look(object, visitor, argument);
    d->looking_at = 0;
}

/* A dict that only shows the values in an object is left out by 3.13's traversal as long as it does. It is the object's all the
 * same. */
static void
dict_left_out(PyObject *object)
{
    PyObject *dict = gb_dump_now->attributes_dict;
    if (dict == NULL || !(Py_TYPE(object)->tp_flags & Py_TPFLAGS_MANAGED_DICT))
        return;
    const uint32_t name = name_for(dict);
    if (name != 0)
        edge(dict, name);
}

static void
references(PyObject *object, uint32_t type)
{
    gb_dump *d = gb_dump_now;
    const gb_dump_type *entry = &d->type[type];
    switch (entry->kind) {
    case GB_KIND_DICT_EXACT:
        dict_edges(object);
        return;
    case GB_KIND_LIST_EXACT:
        item_edges(((PyListObject *)object)->ob_item, Py_SIZE(object));
        return;
    case GB_KIND_TUPLE_EXACT:
        item_edges(((PyTupleObject *)object)->ob_item, Py_SIZE(object));
        return;
    case GB_KIND_CODE:
        code_edges((PyCodeObject *)object);
        return;
    case GB_KIND_TYPE:
        if (!(((PyTypeObject *)object)->tp_flags & Py_TPFLAGS_HEAPTYPE)) {
            static_type_edges((PyTypeObject *)object);
            return;
        }
        break;
    case GB_KIND_NDARRAY:
        ndarray_edges(object);
        break;
    default:
        break;
    }
    prepare_names(object, entry);
    if (entry->kind == GB_KIND_TYPE && gb_dump_subclasses((PyTypeObject *)object) != NULL)
        edge(gb_dump_subclasses((PyTypeObject *)object),
             gb_dump_name_of_c("__subclasses__")); /* weak references, in a dict of its own */
    if (entry->kind == GB_KIND_DICT) {
        dict_edges(object);
        dict_expected expected = {.walk = walk_dict(object)};
        traverse(object, type, visit_but_items, &expected);
    } else {
        traverse(object, type, visit, NULL);
    }
    dict_left_out(object);
}

static unsigned
flags_for(PyObject *object, const gb_dump_type *entry)
{
    switch (entry->kind) {
    case GB_KIND_LIST_EXACT:
    case GB_KIND_TUPLE_EXACT:
        return GB_DUMP_ITEMS;
    case GB_KIND_DICT_EXACT:
        return has_names(object) || ((PyDictObject *)object)->ma_values != NULL ? GB_DUMP_NAMED : GB_DUMP_KEY_VALUE;
    default:
        return entry->named ? GB_DUMP_NAMED : 0;
    }
}

/* ---- what nothing else writes ----------------------------------------------------------------------------------- */

void
gb_dump_reached(PyObject *object)
{
    gb_dump *d = gb_dump_now;
    if (object == NULL || !is_to_be_written(object))
        return;
    if (d->pending_used < GB_DUMP_PENDING_MAX)
        d->pending[d->pending_used++] = object;
    else
        d->lost++;
}

static int
write_target(PyObject *target, void *argument)
{
    (void)argument;
    if (target != NULL && is_to_be_written(target))
        gb_dump_object(target);
    return gb_dump_now->stop != GB_DUMP_COMPLETE;
}

/* Of an object with more targets than there was room to remember: they are looked for again. */
static void
write_targets_again(PyObject *object, uint32_t type)
{
    gb_dump *d = gb_dump_now;
    dict_walk walk;
    PyObject *key, *value;
    switch (d->type[type].kind) {
    case GB_KIND_LIST_EXACT:
        for (Py_ssize_t i = 0; i < Py_SIZE(object); i++)
            write_target(((PyListObject *)object)->ob_item[i], NULL);
        return;
    case GB_KIND_TUPLE_EXACT:
        for (Py_ssize_t i = 0; i < Py_SIZE(object); i++)
            write_target(((PyTupleObject *)object)->ob_item[i], NULL);
        return;
    case GB_KIND_DICT_EXACT:
    case GB_KIND_DICT:
        walk = walk_dict(object);
        while (next_item(&walk, &key, &value)) {
            write_target(key, NULL);
            write_target(value, NULL);
        }
        break;
    default:
        break;
    }
    if (d->type[type].kind != GB_KIND_DICT_EXACT)
        traverse(object, type, write_target, NULL);
}

static void
write_targets(PyObject *object, uint32_t type, uint32_t base, bool missed)
{
    gb_dump *d = gb_dump_now;
    const uint32_t end = d->targets_used;
    if (d->depth >= GB_DUMP_DEPTH_MAX) {
        for (uint32_t i = base; i < end; i++)
            gb_dump_reached(d->targets[i]);
        d->lost += missed;
    } else {
        d->depth++;
        for (uint32_t i = base; i < end && d->stop == GB_DUMP_COMPLETE; i++)
            write_target(d->targets[i], NULL);
        d->targets_used = base;
        if (missed && d->stop == GB_DUMP_COMPLETE)
            write_targets_again(object, type);
        d->depth--;
    }
    d->targets_used = base;
}

void
gb_dump_object(PyObject *object)
{
    gb_dump *d = gb_dump_now;
    const uint32_t type = gb_dump_type_of(object);
    const gb_dump_type *entry = &d->type[type];
    const uint32_t base = d->targets_used;
    if (!gb_dump_is_tracked(object))
        *seen_slot(object) = (uintptr_t)object;
    d->targets_missed = false;
    begin(object, type, entry->leaf ? 0 : flags_for(object, entry));
    if (!entry->leaf)
        references(object, type);
    const bool missed = d->targets_missed;
    put_edges();
    if (entry->kind == GB_KIND_MODULE)
        gb_dump_module(object);
    if (d->targets_used > base || missed)
        write_targets(object, type, base, missed);
}

void
gb_dump_pending(void)
{
    gb_dump *d = gb_dump_now;
    while (d->pending_used > 0 && d->stop == GB_DUMP_COMPLETE) {
        PyObject *object = d->pending[--d->pending_used];
        if (is_to_be_written(object))
            gb_dump_object(object);
    }
}

#endif
