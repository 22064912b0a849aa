/* dump_types.c: types and names of a heap dump, each written once and a number from then on.
 *
 * A name is text that the program's author wrote: an attribute, a variable, a keyword. Such text is interned by the compiler,
 * is ASCII and an identifier. What users type is hardly ever all three, so only text that is leaves the process; no other
 * content of a string does.
 */
#define Py_BUILD_CORE 1
#include "dump.h"

#ifdef GB_DUMP_POSSIBLE

#include <string.h>
#include <structmember.h>

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-parameter"
#pragma GCC diagnostic ignored "-Wsign-compare"
#include <internal/pycore_dict.h>
#include <internal/pycore_frame.h>
#if PY_VERSION_HEX >= 0x030E0000
#include <internal/pycore_interpframe.h>
#endif
#pragma GCC diagnostic pop

#define NAME_PROBES 8u
#define MEMBER_OBJECT 6     /* T_OBJECT */
#define MEMBER_OBJECT_EX 16 /* T_OBJECT_EX */
#define MEMBER_RELATIVE 8   /* Py_RELATIVE_OFFSET */
#define BASES_MAX 64

static bool
is_identifier(const char *text, size_t bytes)
{
    if (bytes == 0 || bytes > GB_DUMP_NAME_BYTES_MAX || (text[0] >= '0' && text[0] <= '9'))
        return false;
    for (size_t i = 0; i < bytes; i++) {
        const char c = text[i];
        if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_'))
            return false;
    }
    return true;
}

/* A text is known by its address. A crowded place forgets one and numbers it anew when it comes again. */
static uint32_t
number_of(const void *key, const char *text, size_t bytes)
{
    gb_dump *d = gb_dump_now;
    const uint32_t home = (uint32_t)(gb_hash_pointer(key) >> 48);
    uint32_t at = home;
    for (uint32_t i = 0; i < NAME_PROBES; i++) {
        at = (home + i) & (GB_DUMP_NAME_SLOTS - 1);
        if (d->name[at].text == key)
            return d->name[at].number;
        if (d->name[at].text == NULL)
            break;
        if (i == NAME_PROBES - 1)
            at = (home + d->names % NAME_PROBES) & (GB_DUMP_NAME_SLOTS - 1);
    }
    if (d->names == UINT32_MAX)
        return 0;
    uint8_t payload[GB_DUMP_TEXT_BYTES_MAX + 2];
    gb_dump_record('S', payload, gb_dump_text(payload, text, bytes), NULL, 0);
    d->name[at].text = key;
    d->name[at].number = ++d->names;
    return d->names;
}

uint32_t
gb_dump_name_of(PyObject *text)
{
    if (text == NULL || !PyUnicode_CheckExact(text) || !PyUnicode_IS_COMPACT_ASCII(text)
        || PyUnicode_CHECK_INTERNED(text) == 0)
        return 0;
    const char *ascii = (const char *)PyUnicode_DATA(text);
    const size_t bytes = (size_t)PyUnicode_GET_LENGTH(text);
    return is_identifier(ascii, bytes) ? number_of(text, ascii, bytes) : 0;
}

/* Names of functions and what they are defined in, as the compiler joins them: "Session.run", "main.<locals>.<lambda>". */
static bool
is_qualified(const char *text, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++) {
        if (text[i] != '.' && text[i] != '<' && text[i] != '>' && !is_identifier(text + i, 1)
            && !(text[i] >= '0' && text[i] <= '9'))
            return false;
    }
    return bytes > 0 && bytes <= GB_DUMP_NAME_BYTES_MAX;
}

/* Not the name that the object itself has: a program may give it one, with anything in it. Where the whole name is too long,
 * its last part. */
void
gb_dump_called(PyObject *generator)
{
    const PyCodeObject *code = gb_dump_code_of(&((PyGenObject *)generator)->gi_iframe);
    PyObject *const names[] = {code == NULL ? NULL : code->co_qualname, code == NULL ? NULL : code->co_name};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        PyObject *text = names[i];
        if (text == NULL || !PyUnicode_CheckExact(text) || !PyUnicode_IS_COMPACT_ASCII(text))
            continue;
        const char *ascii = (const char *)PyUnicode_DATA(text);
        const size_t bytes = (size_t)PyUnicode_GET_LENGTH(text);
        if (!is_qualified(ascii, bytes))
            continue;
        const uint32_t number = number_of(text, ascii, bytes);
        uint8_t payload[10];
        if (number != 0)
            gb_dump_record('N', payload, gb_varint(payload, number), NULL, 0);
        return;
    }
}

uint32_t
gb_dump_name_of_c(const char *text)
{
    if (text == NULL)
        return 0;
    const size_t bytes = strnlen(text, GB_DUMP_NAME_BYTES_MAX + 1);
    return is_identifier(text, bytes) ? number_of(text, text, bytes) : 0;
}

/* The value under a key of a dict of text, found by looking at all of them; NULL when there is none. */
static PyObject *
find_text(PyObject *dict, const char *key)
{
    if (dict == NULL || !PyDict_CheckExact(dict))
        return NULL;
    PyDictObject *mp = (PyDictObject *)dict;
    if (mp->ma_values != NULL || !DK_IS_UNICODE(mp->ma_keys))
        return NULL;
    const PyDictUnicodeEntry *entry = DK_UNICODE_ENTRIES(mp->ma_keys);
    const size_t bytes = strlen(key);
    for (Py_ssize_t i = 0; i < mp->ma_keys->dk_nentries; i++) {
        PyObject *text = entry[i].me_key;
        if (entry[i].me_value != NULL && text != NULL && PyUnicode_IS_COMPACT_ASCII(text)
            && (size_t)PyUnicode_GET_LENGTH(text) == bytes && memcmp(PyUnicode_DATA(text), key, bytes) == 0)
            return entry[i].me_value;
    }
    return NULL;
}

void
gb_dump_module(PyObject *module)
{
    const PyTypeObject *type = Py_TYPE(module);
    if (type->tp_dictoffset <= 0)
        return;
    PyObject *name = find_text(*(PyObject **)((char *)module + type->tp_dictoffset), "__name__");
    uint8_t payload[GB_DUMP_TEXT_BYTES_MAX + 12];
    size_t bytes = gb_varint(payload, (uintptr_t)module);
    gb_dump_record('M', payload, bytes + gb_dump_text_of(payload + bytes, name), NULL, 0);
}

static bool
comes_from(PyTypeObject *type, const char *name)
{
    for (int i = 0; type != NULL && i < BASES_MAX; i++, type = type->tp_base) {
        if (strcmp(type->tp_name, name) == 0)
            return true;
    }
    return false;
}

static gb_dump_kind
kind_of(PyTypeObject *type)
{
    static const struct {
        PyTypeObject *type;
        gb_dump_kind kind;
    } exact[] = {
        {&PyDict_Type, GB_KIND_DICT_EXACT},     {&PyList_Type, GB_KIND_LIST_EXACT},
        {&PyTuple_Type, GB_KIND_TUPLE_EXACT},   {&PyCode_Type, GB_KIND_CODE},
        {&PyFunction_Type, GB_KIND_FUNCTION},   {&PyCell_Type, GB_KIND_CELL},
        {&PyGen_Type, GB_KIND_GENERATOR},       {&PyCoro_Type, GB_KIND_GENERATOR},
        {&PyAsyncGen_Type, GB_KIND_GENERATOR},  {&PyFrame_Type, GB_KIND_FRAME},
        {&PyTraceBack_Type, GB_KIND_TRACEBACK},
    };
    for (size_t i = 0; i < sizeof exact / sizeof *exact; i++) {
        if (exact[i].type == type)
            return exact[i].kind;
    }
    static const struct {
        unsigned long flag;
        gb_dump_kind kind;
    } flagged[] = {
        {Py_TPFLAGS_DICT_SUBCLASS, GB_KIND_DICT},          {Py_TPFLAGS_LIST_SUBCLASS, GB_KIND_LIST},
        {Py_TPFLAGS_TUPLE_SUBCLASS, GB_KIND_TUPLE},        {Py_TPFLAGS_LONG_SUBCLASS, GB_KIND_LONG},
        {Py_TPFLAGS_UNICODE_SUBCLASS, GB_KIND_UNICODE},    {Py_TPFLAGS_TYPE_SUBCLASS, GB_KIND_TYPE},
        {Py_TPFLAGS_BASE_EXC_SUBCLASS, GB_KIND_EXCEPTION},
    };
    for (size_t i = 0; i < sizeof flagged / sizeof *flagged; i++) {
        if (type->tp_flags & flagged[i].flag)
            return flagged[i].kind;
    }
    for (PyTypeObject *base = type; base != NULL; base = base->tp_base) {
        if (base == &PySet_Type || base == &PyFrozenSet_Type)
            return GB_KIND_SET;
        if (base == &PyByteArray_Type)
            return GB_KIND_BYTEARRAY;
        if (base == &PyModule_Type)
            return GB_KIND_MODULE;
    }
    return comes_from(type, "collections.deque") ? GB_KIND_DEQUE
           : comes_from(type, "array.array")     ? GB_KIND_ARRAY
           : comes_from(type, "numpy.ndarray")   ? GB_KIND_NDARRAY
                                                 : GB_KIND_OTHER;
}

static void
note_members(gb_dump_type *entry)
{
    gb_dump *d = gb_dump_now;
    entry->members_at = d->members;
    PyTypeObject *type = entry->type;
    for (int i = 0; type != NULL && i < BASES_MAX; i++, type = type->tp_base) {
        for (PyMemberDef *m = type->tp_members; m != NULL && m->name != NULL; m++) {
            if ((m->type != MEMBER_OBJECT && m->type != MEMBER_OBJECT_EX) || (m->flags & MEMBER_RELATIVE))
                continue;
            if (d->members == GB_DUMP_MEMBERS_MAX || m->offset <= 0)
                continue;
            d->member[d->members++] = (gb_dump_member){m->offset, gb_dump_name_of_c(m->name)};
        }
    }
    entry->members = d->members - entry->members_at;
}

static size_t
put_names(uint8_t *at, PyTypeObject *type)
{
    if (type->tp_flags & Py_TPFLAGS_HEAPTYPE) {
        size_t n = gb_dump_text_of(at, find_text(type->tp_dict, "__module__"));
        return n + gb_dump_text_of(at + n, ((PyHeapTypeObject *)type)->ht_qualname);
    }
    const char *name = type->tp_name;
    const size_t bytes = strnlen(name, GB_DUMP_TEXT_BYTES_MAX);
    const char *dot = memrchr(name, '.', bytes);
    if (dot == NULL) {
        size_t n = gb_dump_text(at, "builtins", 8);
        return n + gb_dump_text(at + n, name, bytes);
    }
    size_t n = gb_dump_text(at, name, (size_t)(dot - name));
    return n + gb_dump_text(at + n, dot + 1, bytes - (size_t)(dot + 1 - name));
}

/* The last number stands for all types that have no room. */
static uint32_t
type_of_the_rest(void)
{
    gb_dump *d = gb_dump_now;
    if (d->types == GB_DUMP_TYPES_MAX - 1) {
        static const char name[] = "<other>";
        uint8_t payload[sizeof name + 8] = {0, 0, 0, 0, 0};
        d->type[d->types++] = (gb_dump_type){.kind = GB_KIND_OTHER};
        gb_dump_record('T', payload, 5 + gb_dump_text(payload + 5, name, sizeof name - 1), NULL, 0);
    }
    return GB_DUMP_TYPES_MAX - 1;
}

uint32_t
gb_dump_type_of(PyObject *object)
{
    gb_dump *d = gb_dump_now;
    PyTypeObject *type = Py_TYPE(object);
    uint32_t at = (uint32_t)(gb_hash_pointer(type) >> 48);
    while (d->type_index[at] != 0) {
        if (d->type[d->type_index[at] - 1].type == type)
            return d->type_index[at] - 1;
        at = (at + 1) & (GB_DUMP_TYPE_SLOTS - 1);
    }
    if (d->types >= GB_DUMP_TYPES_MAX - 1)
        return type_of_the_rest();
    const uint32_t number = d->types++;
    gb_dump_type *entry = &d->type[number];
    *entry = (gb_dump_type){.type = type, .kind = kind_of(type)};
    d->type_index[at] = number + 1;
    uint8_t payload[2 * (GB_DUMP_TEXT_BYTES_MAX + 2) + 40];
    size_t bytes = gb_varint(payload, (uintptr_t)type);
    bytes += gb_varint(payload + bytes, type->tp_basicsize > 0 ? (uint64_t)type->tp_basicsize : 0);
    bytes += gb_varint(payload + bytes, type->tp_itemsize > 0 ? (uint64_t)type->tp_itemsize : 0);
    bytes += gb_varint(payload + bytes, type->tp_flags);
    bytes += put_names(payload + bytes, type);
    gb_dump_record('T', payload, bytes, NULL, 0);
    note_members(entry);
    entry->leaf = type->tp_traverse == NULL && entry->kind != GB_KIND_CODE && entry->kind != GB_KIND_NDARRAY;
    entry->named = entry->members > 0 || type->tp_dictoffset != 0 || (type->tp_flags & Py_TPFLAGS_MANAGED_DICT)
                   || (entry->kind >= GB_KIND_NDARRAY && entry->kind <= GB_KIND_TRACEBACK)
                   || entry->kind == GB_KIND_DICT;
    /* No list of the collector's leads to a type that is not made at run time. */
    if (!(type->tp_flags & Py_TPFLAGS_HEAPTYPE)) {
        gb_dump_root(2, type, type->tp_name);
        gb_dump_reached((PyObject *)type);
    }
    return number;
}

#endif
