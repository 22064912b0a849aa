/* graph_parse.c: a heap dump's bytes become arrays. docs/heap-dump-format.md says what the bytes mean.
 *
 * The file is read three times where it lies: to see which records there are, to number the objects, to find what each
 * edge leads to. That costs less memory than keeping 64-bit addresses of edges until all objects are known.
 *
 * Nothing in the file is believed. Every number is read within its record, every count is checked against the bytes
 * that must follow, so what a damaged file costs is bounded by its size. A file that stops in the middle is read up to
 * there; one that contradicts itself is refused with the place.
 */
#include "graph_parse.h"

#include <stdlib.h>
#include <string.h>

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
            gh_fail(p, r.at, "a name that does not fit into its record");
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
        gh_fail(p, r.at, "a type that does not fit into its record");
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
        gh_fail(p, r.at, "a module that does not fit into its record");
        return refuse(p);
    }
    uint32_t v = gh_object_at(p, address);
    return v == GH_NONE ? Py_NewRef(Py_None) : Py_BuildValue("IN", v, string(name));
}

static PyObject *
frame_from(parse *p, reader r)
{
    uint64_t thread, line;
    reader function, file;
    if (!read_number(&r, &thread) || !read_text(&r, &function) || !read_text(&r, &file) || !read_number(&r, &line)) {
        gh_fail(p, r.at, "a frame that does not fit into its record");
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
        gh_fail(p, r.at, "a root that does not fit into its record");
        return refuse(p);
    }
    uint32_t v = gh_object_at(p, address);
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
        gh_fail(p, r.at, "an end that does not fit into its record");
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
    p->called = add_array(result, "called", 2 * p->counts['N'], sizeof(uint32_t));
    return p->slots != NULL && p->references != NULL && p->addresses != NULL && p->sizes != NULL && p->lengths != NULL
           && p->types != NULL && p->flags != NULL && p->called != NULL;
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
    fine = gh_survey(p);
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
    fine = gh_number_objects(p);
    Py_END_ALLOW_THREADS
    if (!fine || !make_edges(p, result))
        return false;
    Py_BEGIN_ALLOW_THREADS
    fine = gh_connect(p);
    Py_END_ALLOW_THREADS
    return fine && add_object(result, "info", all_of(p, 'I', info_from)) == 0
           && add_object(result, "modules", all_of(p, 'M', module_from)) == 0
           && add_object(result, "frames", all_of(p, 'F', frame_from)) == 0
           && add_object(result, "roots", all_of(p, 'R', root_from)) == 0
           && add_object(result, "end", all_of(p, 'Z', end_from)) == 0
           && add_object(result, "nodes", PyLong_FromUnsignedLong(p->nodes)) == 0
           && add_object(result, "edges", PyLong_FromUnsignedLong(p->edges)) == 0
           && add_object(result, "called_count", PyLong_FromUnsignedLongLong(p->called_count)) == 0
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
