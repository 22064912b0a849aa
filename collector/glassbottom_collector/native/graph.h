/* graph.h: a heap as numbers.
 *
 * Nodes are numbered: the objects of a dump in the order of the file, then the frames of its threads, then `root`,
 * which holds whatever is held from outside, then `garbage`, which holds what nothing else does. Edges lie row by row:
 * those of node v are targets[offsets[v]] up to targets[offsets[v + 1]], and labels beside them say what they are.
 *
 * Everything here computes over arrays and touches no Python object, so that the collector answers others meanwhile.
 */
#ifndef GB_GRAPH_H
#define GB_GRAPH_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdbool.h>
#include <stdint.h>

#define GH_NONE UINT32_MAX
/* Labels: 0 nothing to say, the number of a name, or a key of a dictionary; the edges of `root` have no labels. */
#define GH_KEY UINT32_MAX
/* Nodes and edges are counted with 32 bits; the highest values have meanings of their own. */
#define GH_MAX (UINT32_MAX - 1024u)

typedef struct {
    uint32_t nodes;
    const uint32_t *offsets; /* nodes + 1 */
    const uint32_t *targets;
} gh_graph;

/* Why an object is a root, most telling first: in this order paths are looked for. */
enum gh_root {
    GH_NO_ROOT,
    GH_MODULE,
    GH_FRAME,
    GH_INTERPRETER,
    GH_STATIC_TYPE,
    GH_THREAD_STATE,
    GH_OTHER,
    GH_C,
    GH_IMMORTAL,
    GH_GARBAGE,
    GH_ROOT_KINDS
};

/* ---- graph_dominators.c ------------------------------------------------------------------------------------------- */

/* Fills idom and order (GH_NONE behind the last) and returns how many nodes were reached, 0 without memory. */
uint32_t gh_dominators(const gh_graph *graph, uint32_t root, uint32_t garbage, uint32_t *idom, uint32_t *order);
void gh_sum_up(const uint32_t *parent, const uint32_t *order, uint32_t nodes, uint64_t *sums);
void gh_children(const uint32_t *parent, uint32_t nodes, uint32_t *offsets, uint32_t *children);
bool gh_retained_by_group(const gh_graph *tree, uint32_t root, const uint32_t *groups, uint32_t groups_count,
                          const uint64_t *retained, uint64_t *totals);

/* ---- graph_paths.c ------------------------------------------------------------------------------------------------ */

typedef struct {
    const uint32_t *labels;       /* per edge */
    const uint8_t *root_kinds;    /* per node */
    const uint32_t *owners;       /* per node: whose part it is, or GH_NONE */
    const uint32_t *kinds;        /* per node: what a path calls it */
    const uint64_t *label_hashes; /* names, then GH_ROOT_KINDS of them for roots */
    uint32_t names;
    const uint64_t *kind_hashes;
    uint32_t paths_max;
} gh_naming;

typedef struct {
    uint32_t *parents, *vias, *paths, *order; /* per node; GH_NONE where nothing led */
    uint32_t count;                           /* of paths; path 0 is that of `root` */
    uint32_t *path_parents, *path_labels, *path_kinds;
    uint64_t *path_hashes;
    uint64_t merged; /* steps for which there was no path any more */
} gh_paths;

bool gh_owner_paths(const gh_graph *graph, const gh_naming *naming, gh_paths *paths);

/* ---- graph_parse.c ------------------------------------------------------------------------------------------------ */

PyObject *gh_parse(PyObject *module, PyObject *file);

#endif
