/* graph.c: the module glassbottom_collector._graph. Its functions take and return arrays as bytes; _graph.pyi has the
 * types. Arguments are checked for their lengths here, and for what they point to: a wrong one raises, and never reads
 * beyond an array. */
#include "graph.h"

#include <stdlib.h>
#include <string.h>

static bool
is_long(const Py_buffer *buffer, uint64_t items, size_t item_bytes, const char *name)
{
    if ((uint64_t)buffer->len >= items * item_bytes)
        return true;
    PyErr_Format(PyExc_ValueError, "%s must have %llu items of %zu bytes", name, (unsigned long long)items, item_bytes);
    return false;
}

/* A graph whose rows and targets lie within it. */
static bool
graph_from(const Py_buffer *offsets, const Py_buffer *targets, gh_graph *graph)
{
    graph->offsets = offsets->buf;
    graph->targets = targets->buf;
    if (offsets->len < 3 * (Py_ssize_t)sizeof(uint32_t) || offsets->len / 4 - 1 > (Py_ssize_t)GH_MAX) {
        PyErr_SetString(PyExc_ValueError,
                        "offsets must have one item more than there are nodes, and there are two at least");
        return false;
    }
    graph->nodes = (uint32_t)(offsets->len / (Py_ssize_t)sizeof(uint32_t) - 1);
    bool fine = graph->offsets[0] == 0;
    for (uint32_t v = 0; fine && v < graph->nodes; v++)
        fine = graph->offsets[v] <= graph->offsets[v + 1];
    fine = fine && (uint64_t)targets->len >= (uint64_t)graph->offsets[graph->nodes] * sizeof(uint32_t);
    for (uint32_t e = 0; fine && e < graph->offsets[graph->nodes]; e++)
        fine = graph->targets[e] < graph->nodes;
    if (!fine)
        PyErr_SetString(PyExc_ValueError, "offsets must ascend from 0, and targets be nodes");
    return fine;
}

static bool
are_nodes(const Py_buffer *array, uint32_t nodes, const char *name)
{
    const uint32_t *items = array->buf;
    if (!is_long(array, nodes, sizeof(uint32_t), name))
        return false;
    for (uint32_t i = 0; i < nodes; i++) {
        if (items[i] >= nodes && items[i] != GH_NONE) {
            PyErr_Format(PyExc_ValueError, "%s must be nodes", name);
            return false;
        }
    }
    return true;
}

static PyObject *
new_array(uint64_t items, size_t item_bytes, void *pointer)
{
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(items * item_bytes));
    *(void **)pointer = bytes == NULL ? NULL : PyBytes_AS_STRING(bytes);
    return bytes;
}

/* Were it reached from root as well, it would be numbered twice, and there is no room for that. */
static bool
stands_alone(const gh_graph *graph, uint32_t garbage)
{
    bool fine = graph->offsets[garbage] == graph->offsets[garbage + 1];
    for (uint32_t e = 0; fine && e < graph->offsets[graph->nodes]; e++)
        fine = graph->targets[e] != garbage;
    if (!fine)
        PyErr_SetString(PyExc_ValueError, "garbage must be a node without edges");
    return fine;
}

static PyObject *
graph_dominators(PyObject *module, PyObject *args)
{
    (void)module;
    Py_buffer offsets, targets;
    unsigned int root, garbage;
    if (!PyArg_ParseTuple(args, "y*y*II:dominators", &offsets, &targets, &root, &garbage))
        return NULL;
    PyObject *idom = NULL, *order = NULL, *result = NULL;
    gh_graph graph;
    uint32_t *idoms, *orders, count;
    if (!graph_from(&offsets, &targets, &graph))
        goto done;
    if (root >= graph.nodes || (garbage >= graph.nodes && garbage != GH_NONE) || garbage == root) {
        PyErr_SetString(PyExc_ValueError, "root and garbage must be two nodes");
        goto done;
    }
    if (garbage != GH_NONE && !stands_alone(&graph, garbage))
        goto done;
    idom = new_array(graph.nodes, sizeof(uint32_t), &idoms);
    order = new_array(graph.nodes, sizeof(uint32_t), &orders);
    if (idom == NULL || order == NULL)
        goto done;
    Py_BEGIN_ALLOW_THREADS
    count = gh_dominators(&graph, root, garbage, idoms, orders);
    Py_END_ALLOW_THREADS
    result = count == 0 ? PyErr_NoMemory() : Py_BuildValue("OO", idom, order);
done:
    Py_XDECREF(idom);
    Py_XDECREF(order);
    PyBuffer_Release(&offsets);
    PyBuffer_Release(&targets);
    return result;
}

static PyObject *
graph_sum_up(PyObject *module, PyObject *args)
{
    (void)module;
    Py_buffer parent, order, values;
    if (!PyArg_ParseTuple(args, "y*y*y*:sum_up", &parent, &order, &values))
        return NULL;
    PyObject *result = NULL;
    uint64_t *sums;
    uint32_t nodes = (uint32_t)(parent.len / (Py_ssize_t)sizeof(uint32_t));
    if (are_nodes(&parent, nodes, "parent") && are_nodes(&order, nodes, "order")
        && is_long(&values, nodes, sizeof(uint64_t), "values")
        && (result = new_array(nodes, sizeof(uint64_t), &sums)) != NULL) {
        Py_BEGIN_ALLOW_THREADS
        memcpy(sums, values.buf, nodes * sizeof(uint64_t));
        gh_sum_up(parent.buf, order.buf, nodes, sums);
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&parent);
    PyBuffer_Release(&order);
    PyBuffer_Release(&values);
    return result;
}

static PyObject *
graph_children(PyObject *module, PyObject *args)
{
    (void)module;
    Py_buffer parent;
    if (!PyArg_ParseTuple(args, "y*:children", &parent))
        return NULL;
    PyObject *offsets = NULL, *children = NULL, *result = NULL;
    uint32_t *offset, *child, nodes = (uint32_t)(parent.len / (Py_ssize_t)sizeof(uint32_t));
    if (are_nodes(&parent, nodes, "parent")) {
        offsets = new_array((uint64_t)nodes + 1, sizeof(uint32_t), &offset);
        children = new_array(nodes, sizeof(uint32_t), &child);
    }
    if (offsets != NULL && children != NULL) {
        Py_BEGIN_ALLOW_THREADS
        memset(child, 0, nodes * sizeof(uint32_t));
        gh_children(parent.buf, nodes, offset, child);
        Py_END_ALLOW_THREADS
        result = Py_BuildValue("OO", offsets, children);
    }
    Py_XDECREF(offsets);
    Py_XDECREF(children);
    PyBuffer_Release(&parent);
    return result;
}

/* No node below two others, none above root: then a walk down from root ends. */
static bool
is_tree(const gh_graph *tree, uint32_t root)
{
    uint8_t *seen = calloc((size_t)tree->nodes + 1, 1);
    if (seen == NULL || root >= tree->nodes) {
        free(seen);
        PyErr_SetString(seen == NULL ? PyExc_MemoryError : PyExc_ValueError, "root must be a node");
        return false;
    }
    bool fine = true;
    seen[root] = 1;
    for (uint32_t e = 0; fine && e < tree->offsets[tree->nodes]; e++)
        fine = seen[tree->targets[e]]++ == 0;
    free(seen);
    if (!fine)
        PyErr_SetString(PyExc_ValueError, "offsets and children must be a tree, and root the top of one");
    return fine;
}

static PyObject *
graph_retained_by_group(PyObject *module, PyObject *args)
{
    (void)module;
    Py_buffer offsets, children, groups, retained;
    unsigned int root, count;
    if (!PyArg_ParseTuple(args, "y*y*Iy*Iy*:retained_by_group", &offsets, &children, &root, &groups, &count, &retained))
        return NULL;
    PyObject *result = NULL;
    gh_graph tree;
    uint64_t *totals;
    bool fine = false;
    if (graph_from(&offsets, &children, &tree) && is_long(&groups, tree.nodes, sizeof(uint32_t), "groups")
        && is_long(&retained, tree.nodes, sizeof(uint64_t), "retained") && is_tree(&tree, root))
        result = new_array(count, sizeof(uint64_t), &totals);
    if (result != NULL) {
        Py_BEGIN_ALLOW_THREADS
        fine = gh_retained_by_group(&tree, root, groups.buf, count, retained.buf, totals);
        Py_END_ALLOW_THREADS
        if (!fine) {
            Py_CLEAR(result);
            PyErr_NoMemory();
        }
    }
    PyBuffer_Release(&offsets);
    PyBuffer_Release(&children);
    PyBuffer_Release(&groups);
    PyBuffer_Release(&retained);
    return result;
}

/* Labels, kinds, owners and root kinds index other arrays, so they are checked; nodes - 2 is `root`. */
static bool
naming_fits(const gh_graph *graph, const gh_naming *n, uint64_t kinds_count)
{
    bool fine = true;
    for (uint32_t e = 0; fine && e < graph->offsets[graph->nodes]; e++)
        fine = n->labels[e] < n->names || n->labels[e] == GH_KEY;
    for (uint32_t v = 0; fine && v < graph->nodes; v++)
        fine = n->kinds[v] < kinds_count && n->root_kinds[v] < GH_ROOT_KINDS;
    if (!fine)
        PyErr_SetString(PyExc_ValueError, "labels must be names or keys, kinds have a hash, and root_kinds be known");
    return fine;
}

static PyObject *
graph_owner_paths(PyObject *module, PyObject *args)
{
    (void)module;
    enum { OFFSETS, TARGETS, LABELS, ROOT_KINDS, OWNERS, KINDS, LABEL_HASHES, KIND_HASHES, BUFFERS };
    Py_buffer b[BUFFERS];
    unsigned int paths_max;
    if (!PyArg_ParseTuple(args, "y*y*y*y*y*y*y*y*I:owner_paths", &b[0], &b[1], &b[2], &b[3], &b[4], &b[5], &b[6], &b[7],
                          &paths_max))
        return NULL;
    PyObject *made[8] = {0}, *result = NULL;
    gh_graph graph;
    bool fine = graph_from(&b[OFFSETS], &b[TARGETS], &graph);
    uint64_t kinds = (uint64_t)b[KIND_HASHES].len / sizeof(uint64_t);
    gh_naming naming = {
        .labels = b[LABELS].buf,
        .root_kinds = b[ROOT_KINDS].buf,
        .owners = b[OWNERS].buf,
        .kinds = b[KINDS].buf,
        .label_hashes = b[LABEL_HASHES].buf,
        .kind_hashes = b[KIND_HASHES].buf,
        .paths_max = paths_max > 2 ? paths_max : 2,
    };
    fine = fine && is_long(&b[LABEL_HASHES], GH_ROOT_KINDS + 1, sizeof(uint64_t), "label_hashes");
    if (fine) {
        naming.names = (uint32_t)((size_t)b[LABEL_HASHES].len / sizeof(uint64_t)) - GH_ROOT_KINDS;
        fine = is_long(&b[LABELS], graph.offsets[graph.nodes], sizeof(uint32_t), "labels")
               && is_long(&b[ROOT_KINDS], graph.nodes, 1, "root_kinds")
               && is_long(&b[KINDS], graph.nodes, sizeof(uint32_t), "kinds")
               && are_nodes(&b[OWNERS], graph.nodes, "owners") && naming_fits(&graph, &naming, kinds);
    }
    gh_paths paths;
    if (fine) {
        uint32_t **const arrays[] = {&paths.parents,      &paths.vias,        &paths.paths,     &paths.order,
                                     &paths.path_parents, &paths.path_labels, &paths.path_kinds};
        for (int i = 0; i < 7; i++)
            made[i] = new_array(i < 4 ? graph.nodes : naming.paths_max, sizeof(uint32_t), arrays[i]);
        made[7] = new_array(naming.paths_max, sizeof(uint64_t), &paths.path_hashes);
        for (int i = 0; i < 8; i++)
            fine = fine && made[i] != NULL;
    }
    if (fine) {
        Py_BEGIN_ALLOW_THREADS
        fine = gh_owner_paths(&graph, &naming, &paths);
        Py_END_ALLOW_THREADS
        for (int i = 4; fine && i < 8; i++)
            fine = _PyBytes_Resize(&made[i], (Py_ssize_t)(paths.count * (i < 7 ? sizeof(uint32_t) : sizeof(uint64_t))))
                   == 0;
        if (fine)
            result = Py_BuildValue("OOOOOOOOK", made[0], made[1], made[2], made[3], made[4], made[5], made[6], made[7],
                                   (unsigned long long)paths.merged);
        else if (!PyErr_Occurred())
            PyErr_NoMemory();
    }
    for (int i = 0; i < 8; i++)
        Py_XDECREF(made[i]);
    for (int i = 0; i < BUFFERS; i++)
        PyBuffer_Release(&b[i]);
    return result;
}

static PyMethodDef methods[] = {
    {"parse", gh_parse, METH_O, NULL},
    {"dominators", graph_dominators, METH_VARARGS, NULL},
    {"sum_up", graph_sum_up, METH_VARARGS, NULL},
    {"children", graph_children, METH_VARARGS, NULL},
    {"retained_by_group", graph_retained_by_group, METH_VARARGS, NULL},
    {"owner_paths", graph_owner_paths, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "glassbottom_collector._graph",
    .m_doc = "Arithmetic over the objects of a heap. See _graph.pyi.",
    .m_methods = methods,
};

PyMODINIT_FUNC
PyInit__graph(void)
{
    return PyModuleDef_Init(&definition);
}
