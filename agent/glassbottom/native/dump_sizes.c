/* dump_sizes.c: how many bytes belong to an object: its own block, and what it got for itself when it was made or grew.
 *
 * What __sizeof__ would say, without calling it. A __dict__ that exists as an object counts for itself. The layouts are those of
 * the headers, where there are headers; deque, array and ndarray have none, and theirs have not changed in many years: a value
 * that cannot be right counts as nothing.
 */
#define Py_BUILD_CORE 1
#include "dump.h"

#ifdef GB_DUMP_POSSIBLE

#include <string.h>

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-parameter"
#pragma GCC diagnostic ignored "-Wsign-compare"
#include <internal/pycore_dict.h>
#include <internal/pycore_frame.h>
#if PY_VERSION_HEX >= 0x030E0000
#include <internal/pycore_interpframe.h>
#endif
#pragma GCC diagnostic pop

#define DEQUE_BLOCK_ITEMS 64
#define DEQUE_BLOCK_BYTES (66 * sizeof(void *))
#define ORDER_NODE_BYTES 32
#define ORDER_HEAD_BYTES 2 /* of a table of values: its sizes */
#define ORDER_ROUNDED_BY 9 /* these, and what fills a word */
#define DIMENSIONS_MAX 64
#define PLAUSIBLE_BYTES (UINT64_C(1) << 46)

static size_t
keys_bytes(const PyDictKeysObject *keys)
{
    const size_t entries = (((size_t)1 << keys->dk_log2_size) << 1) / 3;
    const size_t entry = keys->dk_kind == DICT_KEYS_GENERAL ? sizeof(PyDictKeyEntry) : sizeof(PyDictUnicodeEntry);
    return sizeof(PyDictKeysObject) + ((size_t)1 << keys->dk_log2_index_bytes) + entries * entry;
}

/* A table of values for shared keys: the order of insertion before them, and the values. */
static size_t
values_bytes(size_t room)
{
#if PY_VERSION_HEX >= 0x030D0000
    return ((room + 7) & ~(size_t)7) + (room + 1) * sizeof(void *);
#else
    return ((room + 2 + 7) & ~(size_t)7) + room * sizeof(void *);
#endif
}

/* How many values such a table has room for: as many as were expected when it was made. The keys expect fewer with every
 * object of the type that is made, down to one more than there are, so they cannot be asked later. */
static size_t
values_room(const PyDictValues *values, const PyDictKeysObject *keys)
{
#if PY_VERSION_HEX >= 0x030D0000
    (void)keys;
    return values->capacity;
#else
    /* The table tells the room for the order, in words: a range of eight. In it lies what nearly all objects have. */
    const size_t before = ((const uint8_t *)values)[-1];
    const size_t usual = (size_t)keys->dk_nentries + 1;
    const size_t least = before > ORDER_ROUNDED_BY ? before - ORDER_ROUNDED_BY : 0;
    const size_t most = before > ORDER_HEAD_BYTES ? before - ORDER_HEAD_BYTES : 0;
    return usual < least ? least : usual > most ? most : usual;
#endif
}

static size_t
dict_bytes(const PyDictObject *dict)
{
    size_t bytes = 0;
    if (dict->ma_keys->dk_refcnt == 1) /* shared keys belong to their type, and the keys of {} to nobody */
        bytes += keys_bytes(dict->ma_keys);
#if PY_VERSION_HEX >= 0x030D0000
    if (dict->ma_values != NULL && !dict->ma_values->embedded)
#else
    if (dict->ma_values != NULL)
#endif
        bytes += values_bytes(values_room(dict->ma_values, dict->ma_keys));
    return bytes;
}

/* Attributes that are kept without a dict. */
static size_t
inline_bytes(PyObject *object, PyTypeObject *type)
{
    if (!(type->tp_flags & Py_TPFLAGS_MANAGED_DICT) || !(type->tp_flags & Py_TPFLAGS_HEAPTYPE))
        return 0;
    const PyDictKeysObject *keys = ((PyHeapTypeObject *)type)->ht_cached_keys;
    if (keys == NULL)
        return 0;
#if PY_VERSION_HEX >= 0x030D0000
    if (!(type->tp_flags & Py_TPFLAGS_INLINE_VALUES))
        return 0;
    const PyDictValues *values = (PyDictValues *)((char *)object + type->tp_basicsize);
#elif PY_VERSION_HEX >= 0x030C0000
    const uintptr_t either = ((uintptr_t *)object)[-3];
    const PyDictValues *values = either & 1 ? (PyDictValues *)(either + 1) : NULL;
#else
    const PyDictValues *values = ((PyDictValues **)object)[-4];
#endif
    return values == NULL ? 0 : values_bytes(values_room(values, keys));
}

static size_t
unicode_bytes(PyObject *text, PyTypeObject *type)
{
    const PyASCIIObject *ascii = (PyASCIIObject *)text;
    const size_t length = (size_t)ascii->length;
    size_t bytes;
    if (ascii->state.compact && ascii->state.ascii)
        bytes = sizeof(PyASCIIObject) + length + 1;
    else if (ascii->state.compact)
        bytes = sizeof(PyCompactUnicodeObject) + (length + 1) * ascii->state.kind;
    else
        bytes = (size_t)type->tp_basicsize
                + (((PyUnicodeObject *)text)->data.any != NULL ? (length + 1) * ascii->state.kind : 0);
    if (!ascii->state.ascii) {
        const PyCompactUnicodeObject *compact = (PyCompactUnicodeObject *)text;
        if (compact->utf8 != NULL
            && (ascii->state.compact || (void *)compact->utf8 != ((PyUnicodeObject *)text)->data.any))
            bytes += (size_t)compact->utf8_length + 1;
    }
    return bytes;
}

static size_t
long_digits(PyObject *number)
{
#if PY_VERSION_HEX >= 0x030C0000
    const size_t digits = (size_t)((PyLongObject *)number)->long_value.lv_tag >> 3;
#else
    const Py_ssize_t size = Py_SIZE(number);
    const size_t digits = (size_t)(size < 0 ? -size : size);
#endif
    return digits == 0 ? 1 : digits;
}

static size_t
deque_bytes(PyObject *deque)
{
    struct {
        PyVarObject base;
        void *left, *right;
        Py_ssize_t left_index;
    } head;
    memcpy(&head, deque, sizeof head);
    if (head.left_index < 0 || head.left_index > DEQUE_BLOCK_ITEMS || Py_SIZE(deque) < 0)
        return 0;
    const size_t blocks =
        ((size_t)head.left_index + (size_t)Py_SIZE(deque) + DEQUE_BLOCK_ITEMS - 1) / DEQUE_BLOCK_ITEMS;
    return (blocks == 0 ? 1 : blocks) * DEQUE_BLOCK_BYTES;
}

static size_t
array_bytes(PyObject *array)
{
    struct {
        PyVarObject base;
        char *items;
        Py_ssize_t allocated;
        const struct {
            char typecode;
            int item_bytes;
        } *description;
    } head;
    memcpy(&head, array, sizeof head);
    if (head.items == NULL || head.description == NULL || head.description->item_bytes <= 0
        || head.description->item_bytes > 16 || head.allocated < 0)
        return 0;
    return (size_t)head.allocated * (size_t)head.description->item_bytes;
}

/* What an array has of its own: a view has nothing. */
static size_t
ndarray_bytes(PyObject *array)
{
    gb_dump_ndarray head;
    memcpy(&head, array, sizeof head);
    if (head.data == NULL || !(head.flags & GB_NDARRAY_OWNS_DATA) || head.dimensions_count < 0
        || head.dimensions_count > DIMENSIONS_MAX)
        return 0;
    uint64_t bytes = 0;
    for (int i = 0; i < head.dimensions_count; i++) {
        if (head.dimensions[i] <= 0)
            return 0;
        const int64_t stride = head.strides[i] < 0 ? -head.strides[i] : head.strides[i];
        uint64_t reach = (uint64_t)head.dimensions[i] * (uint64_t)stride;
        if (reach > bytes)
            bytes = reach;
    }
    return bytes < PLAUSIBLE_BYTES ? (size_t)bytes + (size_t)head.dimensions_count * 2 * sizeof(int64_t) : 0;
}

/* The order of an OrderedDict: a node for each item, and a table as large as that of the dict. */
static size_t
order_bytes(const PyDictObject *dict)
{
    return (size_t)dict->ma_used * ORDER_NODE_BYTES + ((size_t)1 << dict->ma_keys->dk_log2_size) * sizeof(void *);
}

/* Generators and frame objects have room for the variables and the stack of their code. Their type calls that items, but no object
 * counts them. */
static size_t
frame_bytes(const void *frame)
{
    const PyCodeObject *code = frame == NULL ? NULL : gb_dump_code_of(frame);
    return code == NULL ? 0 : ((size_t)code->co_nlocalsplus + (size_t)code->co_stacksize) * sizeof(PyObject *);
}

/* What lies in the object's own block behind what all of its type have. */
static size_t
item_bytes(PyObject *object, gb_dump_kind kind, PyTypeObject *type)
{
    if (kind == GB_KIND_LONG)
        return long_digits(object) * sizeof(digit);
    if (kind == GB_KIND_GENERATOR)
        return frame_bytes(&((PyGenObject *)object)->gi_iframe);
    if (kind == GB_KIND_FRAME)
        return frame_bytes(((PyFrameObject *)object)->f_frame);
    if (type->tp_itemsize <= 0)
        return 0;
    const uint64_t count = (uint64_t)(Py_SIZE(object) < 0 ? -Py_SIZE(object) : Py_SIZE(object));
    const uint64_t bytes = count > PLAUSIBLE_BYTES ? PLAUSIBLE_BYTES : count * (uint64_t)type->tp_itemsize;
    return bytes < PLAUSIBLE_BYTES ? (size_t)bytes : 0;
}

static size_t
beside(PyObject *object, gb_dump_kind kind, PyTypeObject *type)
{
    switch (kind) {
    case GB_KIND_DICT_EXACT:
        return dict_bytes((PyDictObject *)object);
    case GB_KIND_DICT:
        return dict_bytes((PyDictObject *)object)
               + (PyType_IsSubtype(type, &PyODict_Type) ? order_bytes((PyDictObject *)object) : 0);
    case GB_KIND_LIST_EXACT:
    case GB_KIND_LIST: {
        const Py_ssize_t allocated = ((PyListObject *)object)->allocated;
        return allocated > 0 ? (size_t)allocated * sizeof(PyObject *) : 0;
    }
    case GB_KIND_SET: {
        const PySetObject *set = (PySetObject *)object;
        return set->table != set->smalltable ? ((size_t)set->mask + 1) * sizeof(setentry) : 0;
    }
    case GB_KIND_BYTEARRAY:
        return (size_t)((PyByteArrayObject *)object)->ob_alloc;
    case GB_KIND_DEQUE:
        return deque_bytes(object);
    case GB_KIND_ARRAY:
        return array_bytes(object);
    case GB_KIND_NDARRAY:
        return ndarray_bytes(object);
    case GB_KIND_TYPE:
        if (((PyTypeObject *)object)->tp_flags & Py_TPFLAGS_HEAPTYPE) {
            const PyDictKeysObject *keys = ((PyHeapTypeObject *)object)->ht_cached_keys;
            return keys == NULL ? 0 : keys_bytes(keys);
        }
        return 0;
    default:
        return 0;
    }
}

size_t
gb_dump_size(PyObject *object, const gb_dump_type *entry)
{
    PyTypeObject *type = Py_TYPE(object);
    size_t bytes;
    if (entry->kind == GB_KIND_UNICODE) {
        bytes = unicode_bytes(object, type);
        if (type != &PyUnicode_Type && bytes < (size_t)type->tp_basicsize)
            bytes = (size_t)type->tp_basicsize;
    } else {
        bytes = (size_t)type->tp_basicsize + item_bytes(object, entry->kind, type);
        bytes += beside(object, entry->kind, type);
    }
    if (entry->kind == GB_KIND_TYPE && !(((PyTypeObject *)object)->tp_flags & Py_TPFLAGS_HEAPTYPE))
        return sizeof(PyTypeObject); /* a variable of C's */
    return bytes + gb_preheader_bytes(type->tp_flags) + inline_bytes(object, type);
}

bool
gb_dump_length(PyObject *object, gb_dump_kind kind, size_t *length)
{
    Py_ssize_t found;
    switch (kind) {
    case GB_KIND_DICT_EXACT:
    case GB_KIND_DICT:
        found = ((PyDictObject *)object)->ma_used;
        break;
    case GB_KIND_LIST_EXACT:
    case GB_KIND_LIST:
    case GB_KIND_TUPLE_EXACT:
    case GB_KIND_TUPLE:
    case GB_KIND_DEQUE:
        found = Py_SIZE(object);
        break;
    case GB_KIND_SET:
        found = ((PySetObject *)object)->used;
        break;
    default:
        return false;
    }
    *length = found < 0 ? 0 : (size_t)found;
    return true;
}

#endif
