/* dump_edges.c: the references of one object.
 *
 * They are found by the type's own tp_traverse, as the collector of cycles finds them. What that leaves out because it cannot be
 * part of a cycle is read from the object itself: keys of dicts that are text, code objects, what a NumPy array shares.
 */
#define Py_BUILD_CORE 1
#include "dump.h"

#ifdef GB_DUMP_POSSIBLE

#include <string.h>

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-parameter"
#pragma GCC diagnostic ignored "-Wsign-compare"
#include <internal/pycore_dict.h>
#pragma GCC diagnostic pop

#define KEYS_ASKED 4 /* of a dict's keys, to see whether they are names */
#define NUMPY_OBJECT 17
#define DESCRIPTION_TYPE_NUMBER_AT 28

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
            gb_dump_edge(key, 0);
            gb_dump_edge(value, 0);
        }
        return;
    }
    while (values && next_item(&walk, &key, &value))
        gb_dump_edge(value, gb_dump_name_of(key));
    /* Keys shared with the type belong to it. */
    if (((PyDictObject *)object)->ma_values != NULL)
        return;
    walk = walk_dict(object);
    while (next_item(&walk, &key, &value))
        gb_dump_edge(key, 0);
}

static void
item_edges(PyObject *const *items, Py_ssize_t count)
{
    for (Py_ssize_t i = 0; i < count; i++) {
        if (items[i] != NULL) /* a list or tuple still being filled */
            gb_dump_edge(items[i], 0);
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
            gb_dump_edge(parts[i], gb_dump_name_of_c(names[i]));
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
            gb_dump_edge(parts[i].target, gb_dump_name_of_c(parts[i].name));
    }
}

/* An array tells the collector nothing, neither whose memory it shows nor the objects in it. */
static void
ndarray_edges(PyObject *object)
{
    gb_dump_ndarray array;
    memcpy(&array, object, sizeof array);
    if (array.base != NULL)
        gb_dump_edge(array.base, gb_dump_name_of_c("base"));
    if (array.description == NULL)
        return;
    gb_dump_edge(array.description, gb_dump_name_of_c("dtype"));
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
        gb_dump_edge(target, gb_dump_hint_for(target));
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
    const uint32_t name = gb_dump_hint_for(dict);
    if (name != 0)
        gb_dump_edge(dict, name);
}

void
gb_dump_references(PyObject *object, uint32_t type)
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
    gb_dump_hints(object, entry);
    if (entry->kind == GB_KIND_TYPE && gb_dump_subclasses((PyTypeObject *)object) != NULL)
        gb_dump_edge(gb_dump_subclasses((PyTypeObject *)object),
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

unsigned
gb_dump_flags(PyObject *object, const gb_dump_type *entry)
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

void
gb_dump_each_target(PyObject *object, uint32_t type, visitproc visitor)
{
    gb_dump *d = gb_dump_now;
    dict_walk walk;
    PyObject *key, *value;
    switch (d->type[type].kind) {
    case GB_KIND_LIST_EXACT:
        for (Py_ssize_t i = 0; i < Py_SIZE(object); i++)
            visitor(((PyListObject *)object)->ob_item[i], NULL);
        return;
    case GB_KIND_TUPLE_EXACT:
        for (Py_ssize_t i = 0; i < Py_SIZE(object); i++)
            visitor(((PyTupleObject *)object)->ob_item[i], NULL);
        return;
    case GB_KIND_DICT_EXACT:
    case GB_KIND_DICT:
        walk = walk_dict(object);
        while (next_item(&walk, &key, &value)) {
            visitor(key, NULL);
            visitor(value, NULL);
        }
        break;
    default:
        break;
    }
    if (d->type[type].kind != GB_KIND_DICT_EXACT)
        traverse(object, type, visitor, NULL);
}

#endif
