/* graph_parse.c: a heap dump's bytes become arrays. docs/heap-dump-format.md says what the bytes mean.
 *
 * The file is read three times where it lies: to see which records there are, to number the objects, to find what each
 * edge leads to. That costs less memory than keeping 64-bit addresses of edges until all objects are known.
 *
 * Nothing in the file is believed. Every number is read within its record, every count is checked against the bytes
 * that must follow, so what a damaged file costs is bounded by its size. A file that stops in the middle is read up to
 * there; one that contradicts itself is refused with the place.
 */
#include "graph.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#define MAGIC "GBHEAP1\n"
#define MAGIC_BYTES 8

enum { IN_GC = 1, IMMORTAL = 2, HAS_LENGTH = 4, KEYS_AND_VALUES = 8, NAMED = 16, ITEMS = 32, WEAK = 64 };

typedef struct {
    const uint8_t *at, *end;
} reader;

typedef struct {
    uint8_t tag;
    reader payload;
} record;

typedef struct {
    uint64_t address, type, flags, size, references, length, edges;
} object_head;

typedef struct {
    const uint8_t *begin, *end;
    record *others; /* all but objects and their edges, in order */
    size_t others_count, others_room;
    uint64_t counts[256];
    bool cut_short;
    uint32_t nodes, frames;
    uint64_t repeated, missing, edges_max;
    uint32_t *slots; /* object number + 1, by address */
    uint32_t slots_mask;
    /* Results; the arrays belong to bytes objects. */
    uint64_t *addresses, *sizes;
    int64_t *lengths;
    uint32_t *types, *offsets, *targets, *labels, *owners;
    uint8_t *flags, *root_kinds;
    uint32_t *references, *shown; /* what an object counts, and what the file shows */
    uint32_t edges;
    const uint32_t *names; /* number in the file to number of the text */
    uint32_t names_count, types_count, types_seen, dict_name, dict_type;
    char error[256];
} parse;

static bool
fail(parse *p, const uint8_t *at, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    int written = vsnprintf(p->error, sizeof(p->error), format, arguments);
    va_end(arguments);
    if (written >= 0 && (size_t)written < sizeof(p->error))
        snprintf(p->error + written, sizeof(p->error) - (size_t)written, " at byte %zu", (size_t)(at - p->begin));
    return false;
}

static bool
read_number(reader *r, uint64_t *value)
{
    uint64_t result = 0;
    for (unsigned shift = 0; shift < 64 && r->at < r->end; shift += 7) {
        uint8_t byte = *r->at++;
        if (shift == 63 && byte > 1)
            return false;
        result |= (uint64_t)(byte & 0x7F) << shift;
        if (byte < 0x80) {
            *value = result;
            return true;
        }
    }
    return false;
}

/* A difference, as it is added to an address: addresses wrap, and so may a damaged one. */
static bool
read_difference(reader *r, uint64_t *value)
{
    uint64_t raw;
    if (!read_number(r, &raw))
        return false;
    *value = (raw >> 1) ^ (0 - (raw & 1));
    return true;
}

static bool
read_text(reader *r, reader *text)
{
    uint64_t length;
    if (!read_number(r, &length) || length > (uint64_t)(r->end - r->at))
        return false;
    *text = (reader){r->at, r->at + length};
    r->at += length;
    return true;
}

static bool
read_head(reader *r, object_head *o)
{
    o->length = 0;
    return read_difference(r, &o->address) && read_number(r, &o->type) && read_number(r, &o->flags)
           && read_number(r, &o->size) && read_number(r, &o->references)
           && (!(o->flags & HAS_LENGTH) || read_number(r, &o->length)) && read_number(r, &o->edges);
}

/* The record at r, or false at the end: of the file, or of what was written of it. */
static bool
next_record(parse *p, reader *r, record *found)
{
    if (r->at >= r->end)
        return false;
    reader ahead = *r;
    uint64_t length;
    found->tag = *ahead.at++;
    if (!read_number(&ahead, &length) || length > (uint64_t)(ahead.end - ahead.at)) {
        p->cut_short = true;
        return false;
    }
    found->payload = (reader){ahead.at, ahead.at + length};
    r->at = ahead.at + length;
    return true;
}

static reader
records_of(const parse *p)
{
    return (reader){p->begin + MAGIC_BYTES, p->end};
}

/* ---- first reading: which records there are ----------------------------------------------------------------------- */

static bool
survey(parse *p)
{
    reader r = records_of(p);
    record found;
    while (next_record(p, &r, &found)) {
        p->counts[found.tag]++;
        if (found.tag == 'O' || found.tag == 'E')
            continue;
        if (p->others_count == p->others_room) {
            p->others_room = p->others_room ? 2 * p->others_room : 1024;
            record *more = realloc(p->others, p->others_room * sizeof(record));
            if (more == NULL)
                return false;
            p->others = more;
        }
        p->others[p->others_count++] = found;
        if (found.tag == 'Z')
            return true;
    }
    p->cut_short = true;
    return true;
}

/* ---- second reading: objects get numbers -------------------------------------------------------------------------- */

static uint32_t
first_slot(const parse *p, uint64_t address)
{
    return (uint32_t)((address >> 3) * UINT64_C(0x9E3779B97F4A7C15) >> 32) & p->slots_mask;
}

static uint32_t
find(const parse *p, uint64_t address)
{
    for (uint32_t slot = first_slot(p, address); p->slots[slot] != 0; slot = (slot + 1) & p->slots_mask) {
        if (p->addresses[p->slots[slot] - 1] == address)
            return p->slots[slot] - 1;
    }
    return GH_NONE;
}

static bool
number_objects(parse *p)
{
    reader r = records_of(p);
    record found;
    uint64_t address = 0;
    bool kept = false;
    while (next_record(p, &r, &found)) {
        if (found.tag == 'Z')
            break;
        if (found.tag == 'E') {
            uint64_t edges;
            if (!read_number(&found.payload, &edges) || edges > (uint64_t)(found.payload.end - found.payload.at))
                return fail(p, found.payload.at, "edges that do not fit into their record");
            p->edges_max += kept ? edges : 0;
        }
        if (found.tag != 'O')
            continue;
        object_head o;
        if (!read_head(&found.payload, &o) || o.edges > (uint64_t)(found.payload.end - found.payload.at))
            return fail(p, found.payload.at, "an object that does not fit into its record");
        if (o.type >= p->types_count)
            return fail(p, found.payload.at, "an object of type %llu, which was not told", (unsigned long long)o.type);
        address += o.address;
        uint32_t slot = first_slot(p, address);
        while (p->slots[slot] != 0 && p->addresses[p->slots[slot] - 1] != address)
            slot = (slot + 1) & p->slots_mask;
        kept = p->slots[slot] == 0;
        if (!kept) {
            p->repeated++;
            continue;
        }
        uint32_t v = p->nodes++;
        p->slots[slot] = v + 1;
        p->addresses[v] = address;
        p->sizes[v] = o.size;
        p->types[v] = (uint32_t)o.type;
        p->flags[v] = (uint8_t)o.flags;
        p->lengths[v] = o.flags & HAS_LENGTH ? (int64_t)(o.length & INT64_MAX) : -1;
        /* 0 stands for "it is immortal", whether the flag says so or not. */
        p->references[v] = o.flags & IMMORTAL ? 0 : o.references < GH_NONE ? (uint32_t)o.references : GH_NONE;
        p->edges_max += o.edges;
    }
    return true;
}

/* ---- third reading: edges find their objects ---------------------------------------------------------------------- */

static void
show(parse *p, uint32_t v)
{
    if (p->shown[v] != GH_NONE)
        p->shown[v]++;
}

static bool
read_edges(parse *p, reader *r, uint64_t count, uint64_t address, uint64_t flags, uint64_t *position)
{
    for (uint64_t i = 0; i < count; i++, (*position)++) {
        uint64_t difference, name = 0;
        if (!read_difference(r, &difference) || (flags & NAMED && !read_number(r, &name)))
            return fail(p, r->at, "an edge that does not fit into its record");
        if (name >= p->names_count)
            return fail(p, r->at, "an edge with name %llu, which was not told", (unsigned long long)name);
        if (flags & WEAK)
            continue;
        uint32_t target = find(p, address + difference);
        if (target == GH_NONE) {
            p->missing++;
            continue;
        }
        bool key = flags & KEYS_AND_VALUES && (flags & NAMED ? name == 0 : *position % 2 == 0);
        p->targets[p->edges] = target;
        p->labels[p->edges++] = key ? GH_KEY : p->names[name];
        show(p, target);
    }
    return true;
}

static bool
find_edges(parse *p)
{
    reader r = records_of(p);
    record found;
    uint64_t address = 0, flags = 0, position = 0;
    uint32_t next = 0;
    bool kept = false;
    while (next_record(p, &r, &found)) {
        uint64_t count;
        if (found.tag == 'Z')
            break;
        if (found.tag == 'O') {
            object_head o;
            read_head(&found.payload, &o);
            address += o.address;
            /* The first of an object is the one that has the next number. */
            kept = next < p->nodes && p->addresses[next] == address;
            flags = o.flags;
            position = 0;
            count = o.edges;
            if (kept)
                p->offsets[next++] = p->edges;
        } else if (found.tag == 'E') {
            read_number(&found.payload, &count);
        } else {
            continue;
        }
        if (kept && !read_edges(p, &found.payload, count, address, flags, &position))
            return false;
    }
    return true;
}

/* ---- roots -------------------------------------------------------------------------------------------------------- */

static const uint8_t KIND_OF_RECORD[] = {GH_OTHER, GH_INTERPRETER, GH_STATIC_TYPE, GH_THREAD_STATE, GH_OTHER};

static void
make_root(parse *p, uint32_t v, uint8_t kind)
{
    if (p->root_kinds[v] == GH_NO_ROOT || kind < p->root_kinds[v])
        p->root_kinds[v] = kind;
}

static bool
read_roots(parse *p)
{
    uint32_t frame = p->nodes;
    for (size_t i = 0; i < p->others_count; i++) {
        reader r = p->others[i].payload, text;
        uint64_t number, address, count;
        if (p->others[i].tag == 'M' || p->others[i].tag == 'R') {
            bool module = p->others[i].tag == 'M';
            if ((!module && !read_number(&r, &number)) || !read_number(&r, &address) || !read_text(&r, &text))
                return fail(p, r.at, "a root that does not fit into its record");
            uint32_t v = find(p, address);
            if (v == GH_NONE)
                continue;
            if (!module)
                show(p, v);
            make_root(p, v, module ? GH_MODULE : number < sizeof(KIND_OF_RECORD) ? KIND_OF_RECORD[number] : GH_OTHER);
        } else if (p->others[i].tag == 'F') {
            p->offsets[frame] = p->edges;
            p->root_kinds[frame++] = GH_FRAME;
            if (!read_number(&r, &number) || !read_text(&r, &text) || !read_text(&r, &text) || !read_number(&r, &number)
                || !read_number(&r, &count))
                return fail(p, r.at, "a frame that does not fit into its record");
            for (uint64_t e = 0; e < count; e++) {
                if (!read_number(&r, &address) || !read_number(&r, &number) || number >= p->names_count)
                    return fail(p, r.at, "a local of a frame that does not fit into its record");
                uint32_t v = find(p, address);
                if (v == GH_NONE) {
                    p->missing++;
                    continue;
                }
                p->targets[p->edges] = v;
                p->labels[p->edges++] = p->names[number];
                show(p, v);
            }
        }
    }
    p->offsets[frame] = p->edges;
    return true;
}

/* What is referred to more often than the file shows is held by C code, by an evaluation stack, by a collection that
 * runs; what is immortal by nobody, but it stays. */
static void
find_hidden_roots(parse *p)
{
    for (uint32_t v = 0; v < p->nodes; v++) {
        if (p->references[v] == 0)
            make_root(p, v, GH_IMMORTAL);
        else if (p->references[v] > p->shown[v])
            make_root(p, v, GH_C);
    }
}

/* An edge to an object's __dict__. In a dictionary the same name is a key, as in that of most classes. */
static bool
leads_to_attributes(const parse *p, uint32_t v, uint32_t e)
{
    return p->dict_name != 0 && p->labels[e] == p->dict_name && p->types[v] != p->dict_type
           && p->types[p->targets[e]] == p->dict_type;
}

/* A module and its dictionary are one: who refers to the dictionary, as every function of the module does, holds the
 * module. Otherwise nothing a module has would count as held by it. */
static void
join_modules(parse *p)
{
    uint32_t *module_of = calloc((size_t)p->nodes + 1, sizeof(uint32_t));
    if (module_of == NULL)
        return;
    bool any = false;
    for (uint32_t v = 0; v < p->nodes; v++) {
        if (p->root_kinds[v] != GH_MODULE)
            continue;
        for (uint32_t e = p->offsets[v]; e < p->offsets[v + 1]; e++) {
            uint32_t d = p->targets[e];
            if (leads_to_attributes(p, v, e) && module_of[d] == 0) {
                any = true;
                module_of[d] = v + 1;
                p->root_kinds[d] = GH_NO_ROOT;
                p->shown[d] = 1;
            }
        }
    }
    for (uint32_t v = 0; any && v < p->nodes + p->frames; v++) {
        for (uint32_t e = p->offsets[v]; e < p->offsets[v + 1]; e++) {
            uint32_t module = module_of[p->targets[e]];
            if (module != 0 && module - 1 != v)
                p->targets[e] = module - 1;
        }
    }
    free(module_of);
}

/* A dictionary that is an object's __dict__ and nobody else's is part of it. A part has no parts: it is a dictionary. */
static void
give_dictionaries_to_owners(parse *p)
{
    for (uint32_t v = 0; v < p->nodes; v++) {
        for (uint32_t e = p->offsets[v]; e < p->offsets[v + 1]; e++) {
            uint32_t d = p->targets[e];
            if (p->shown[d] != 1 || p->root_kinds[d] != GH_NO_ROOT || !leads_to_attributes(p, v, e))
                continue;
            p->owners[d] = v;
            p->sizes[v] += p->sizes[d];
            p->sizes[d] = 0;
        }
    }
}

static void
end_rows(parse *p)
{
    uint32_t root = p->nodes + p->frames;
    for (uint32_t v = 0; v < root; v++) {
        if (p->root_kinds[v] != GH_NO_ROOT) {
            p->targets[p->edges] = v;
            p->labels[p->edges++] = 0;
        }
    }
    p->offsets[root + 1] = p->offsets[root + 2] = p->edges;
}

/* ---- with the GIL: texts, and results ----------------------------------------------------------------------------- */

static PyObject *
string(reader text)
{
    return PyUnicode_DecodeUTF8((const char *)text.at, text.end - text.at, "replace");
}

static bool
is_text(reader text, const char *expected)
{
    const size_t bytes = strlen(expected);
    return (size_t)(text.end - text.at) == bytes && memcmp(text.at, expected, bytes) == 0;
}

/* What a record other than an object says, or why it cannot: in either case p->error or an exception tells. */
static PyObject *
refuse(parse *p)
{
    PyErr_SetString(PyExc_ValueError, p->error);
    return NULL;
}

/* Texts of the names; number 0 is no name. The number of a name in the file becomes that of the first with its text. */
static PyObject *
read_names(parse *p, uint32_t *map)
{
    PyObject *numbers = PyDict_New(), *names = Py_BuildValue("[s]", "");
    bool fine = numbers != NULL && names != NULL;
    uint32_t at = 1;
    map[0] = 0;
    for (size_t i = 0; fine && i < p->others_count; i++) {
        reader r = p->others[i].payload, text;
        if (p->others[i].tag != 'S')
            continue;
        if (!read_text(&r, &text)) {
            fail(p, r.at, "a name that does not fit into its record");
            refuse(p);
            fine = false;
            break;
        }
        PyObject *name = string(text), *number = PyLong_FromSsize_t(PyList_GET_SIZE(names));
        PyObject *known = name == NULL || number == NULL ? NULL : PyDict_SetDefault(numbers, name, number);
        fine = known != NULL && (known != number || PyList_Append(names, name) == 0);
        if (fine) {
            map[at++] = (uint32_t)PyLong_AsUnsignedLong(known);
            if (PyUnicode_CompareWithASCIIString(name, "__dict__") == 0)
                p->dict_name = map[at - 1];
        }
        Py_XDECREF(name);
        Py_XDECREF(number);
    }
    Py_XDECREF(numbers);
    if (!fine)
        Py_CLEAR(names);
    return names;
}

static PyObject *
type_from(parse *p, reader r)
{
    uint64_t address, basicsize, itemsize, flags;
    reader module, qualname;
    if (!read_number(&r, &address) || !read_number(&r, &basicsize) || !read_number(&r, &itemsize)
        || !read_number(&r, &flags) || !read_text(&r, &module) || !read_text(&r, &qualname)) {
        fail(p, r.at, "a type that does not fit into its record");
        return refuse(p);
    }
    const uint32_t number = p->types_seen++;
    if (is_text(module, "builtins") && is_text(qualname, "dict"))
        p->dict_type = number;
    return Py_BuildValue("KKNN", (unsigned long long)address, (unsigned long long)flags, string(module),
                         string(qualname));
}

static PyObject *
module_from(parse *p, reader r)
{
    uint64_t address;
    reader name;
    if (!read_number(&r, &address) || !read_text(&r, &name)) {
        fail(p, r.at, "a module that does not fit into its record");
        return refuse(p);
    }
    uint32_t v = find(p, address);
    return v == GH_NONE ? Py_NewRef(Py_None) : Py_BuildValue("IN", v, string(name));
}

static PyObject *
frame_from(parse *p, reader r)
{
    uint64_t thread, line;
    reader function, file;
    if (!read_number(&r, &thread) || !read_text(&r, &function) || !read_text(&r, &file) || !read_number(&r, &line)) {
        fail(p, r.at, "a frame that does not fit into its record");
        return refuse(p);
    }
    return Py_BuildValue("KNNK", (unsigned long long)thread, string(function), string(file), (unsigned long long)line);
}

static PyObject *
root_from(parse *p, reader r)
{
    uint64_t kind, address;
    reader text;
    if (!read_number(&r, &kind) || !read_number(&r, &address) || !read_text(&r, &text)) {
        fail(p, r.at, "a root that does not fit into its record");
        return refuse(p);
    }
    uint32_t v = find(p, address);
    return v == GH_NONE ? Py_NewRef(Py_None) : Py_BuildValue("IN", v, string(text));
}

static PyObject *
info_from(parse *p, reader r)
{
    (void)p;
    return PyBytes_FromStringAndSize((const char *)r.at, r.end - r.at);
}

static PyObject *
end_from(parse *p, reader r)
{
    uint64_t objects, edges, reason, elapsed_us;
    if (!read_number(&r, &objects) || !read_number(&r, &edges) || !read_number(&r, &reason)
        || !read_number(&r, &elapsed_us)) {
        fail(p, r.at, "an end that does not fit into its record");
        return refuse(p);
    }
    return Py_BuildValue("KKKK", (unsigned long long)objects, (unsigned long long)edges, (unsigned long long)reason,
                         (unsigned long long)elapsed_us);
}

/* A list of what each record with the tag says, without those whose object is not in the file. */
static PyObject *
all_of(parse *p, uint8_t tag, PyObject *(*from)(parse *, reader))
{
    PyObject *list = PyList_New(0);
    for (size_t i = 0; list != NULL && i < p->others_count; i++) {
        if (p->others[i].tag != tag)
            continue;
        PyObject *one = from(p, p->others[i].payload);
        if (one == NULL || (one != Py_None && PyList_Append(list, one) < 0))
            Py_CLEAR(list);
        Py_XDECREF(one);
    }
    return list;
}

/* An array that is a bytes object, under its name in the result. */
static void *
add_array(PyObject *result, const char *name, uint64_t length, size_t item_bytes)
{
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(length * item_bytes));
    int added = bytes == NULL ? -1 : PyDict_SetItemString(result, name, bytes);
    Py_XDECREF(bytes);
    return added < 0 ? NULL : PyBytes_AS_STRING(bytes);
}

static int
add_object(PyObject *result, const char *name, PyObject *value)
{
    int added = value == NULL ? -1 : PyDict_SetItemString(result, name, value);
    Py_XDECREF(value);
    return added;
}

static bool
make_nodes(parse *p, PyObject *result)
{
    uint64_t objects = p->counts['O'], slots = 1024;
    while (slots < 2 * objects)
        slots *= 2;
    p->slots_mask = (uint32_t)(slots - 1);
    p->frames = (uint32_t)p->counts['F'];
    p->slots = calloc(slots, sizeof(uint32_t));
    p->references = malloc((objects + 1) * sizeof(uint32_t));
    p->addresses = add_array(result, "addresses", objects, sizeof(uint64_t));
    p->sizes = add_array(result, "sizes", objects, sizeof(uint64_t));
    p->lengths = add_array(result, "lengths", objects, sizeof(int64_t));
    p->types = add_array(result, "types", objects, sizeof(uint32_t));
    p->flags = add_array(result, "flags", objects, 1);
    return p->slots != NULL && p->references != NULL && p->addresses != NULL && p->sizes != NULL && p->lengths != NULL
           && p->types != NULL && p->flags != NULL;
}

/* Room for every edge there can be, those of frames and of `root` included. */
static bool
make_edges(parse *p, PyObject *result)
{
    uint64_t nodes = (uint64_t)p->nodes + p->frames + 2, edges = p->edges_max + nodes;
    for (size_t i = 0; i < p->others_count; i++)
        edges += p->others[i].tag == 'F' ? (uint64_t)(p->others[i].payload.end - p->others[i].payload.at) / 2 : 0;
    if (nodes > GH_MAX || edges > GH_MAX) {
        PyErr_SetString(PyExc_ValueError, "more than four thousand million objects or references");
        return false;
    }
    p->offsets = add_array(result, "offsets", nodes + 1, sizeof(uint32_t));
    p->targets = add_array(result, "targets", edges, sizeof(uint32_t));
    p->labels = add_array(result, "labels", edges, sizeof(uint32_t));
    p->owners = add_array(result, "owners", nodes, sizeof(uint32_t));
    p->root_kinds = add_array(result, "root_kinds", nodes, 1);
    p->shown = calloc((size_t)p->nodes + 1, sizeof(uint32_t));
    if (p->offsets == NULL || p->targets == NULL || p->labels == NULL || p->owners == NULL || p->root_kinds == NULL
        || p->shown == NULL)
        return false;
    memset(p->owners, 0xFF, nodes * sizeof(uint32_t));
    memset(p->root_kinds, GH_NO_ROOT, nodes);
    return true;
}

static bool
read_everything(parse *p, PyObject *result, uint32_t **map)
{
    bool fine;
    if (p->end - p->begin < MAGIC_BYTES || memcmp(p->begin, MAGIC, MAGIC_BYTES) != 0) {
        PyErr_SetString(PyExc_ValueError, "it does not begin with GBHEAP1");
        return false;
    }
    Py_BEGIN_ALLOW_THREADS
    fine = survey(p);
    Py_END_ALLOW_THREADS
    if (!fine)
        return false;
    if (p->counts['O'] > GH_MAX || p->counts['S'] > GH_MAX || p->counts['T'] > GH_MAX) {
        PyErr_SetString(PyExc_ValueError, "more than four thousand million objects or names");
        return false;
    }
    p->types_count = (uint32_t)p->counts['T'];
    p->names_count = (uint32_t)p->counts['S'] + 1;
    p->names = *map = malloc(p->names_count * sizeof(uint32_t));
    if (*map == NULL || add_object(result, "names", read_names(p, *map)) < 0
        || add_object(result, "type_names", all_of(p, 'T', type_from)) < 0 || !make_nodes(p, result))
        return false;
    Py_BEGIN_ALLOW_THREADS
    fine = number_objects(p);
    Py_END_ALLOW_THREADS
    if (!fine || !make_edges(p, result))
        return false;
    Py_BEGIN_ALLOW_THREADS
    fine = find_edges(p) && read_roots(p);
    if (fine) {
        find_hidden_roots(p);
        join_modules(p);
        give_dictionaries_to_owners(p);
        end_rows(p);
    }
    Py_END_ALLOW_THREADS
    return fine && add_object(result, "info", all_of(p, 'I', info_from)) == 0
           && add_object(result, "modules", all_of(p, 'M', module_from)) == 0
           && add_object(result, "frames", all_of(p, 'F', frame_from)) == 0
           && add_object(result, "roots", all_of(p, 'R', root_from)) == 0
           && add_object(result, "end", all_of(p, 'Z', end_from)) == 0
           && add_object(result, "nodes", PyLong_FromUnsignedLong(p->nodes)) == 0
           && add_object(result, "edges", PyLong_FromUnsignedLong(p->edges)) == 0
           && add_object(result, "repeated", PyLong_FromUnsignedLongLong(p->repeated)) == 0
           && add_object(result, "missing", PyLong_FromUnsignedLongLong(p->missing)) == 0
           && add_object(result, "cut_short", PyBool_FromLong(p->cut_short)) == 0;
}

PyObject *
gh_parse(PyObject *module, PyObject *file)
{
    (void)module;
    Py_buffer buffer;
    if (PyObject_GetBuffer(file, &buffer, PyBUF_SIMPLE) < 0)
        return NULL;
    parse p = {.begin = buffer.buf, .end = (const uint8_t *)buffer.buf + buffer.len, .dict_type = GH_NONE};
    uint32_t *map = NULL;
    PyObject *result = PyDict_New();
    if (result != NULL && !read_everything(&p, result, &map)) {
        Py_CLEAR(result);
        if (!PyErr_Occurred() && p.error[0] != 0)
            PyErr_SetString(PyExc_ValueError, p.error);
        else if (!PyErr_Occurred())
            PyErr_NoMemory();
    }
    free(p.others);
    free(p.slots);
    free(p.references);
    free(p.shown);
    free(map);
    PyBuffer_Release(&buffer);
    return result;
}
