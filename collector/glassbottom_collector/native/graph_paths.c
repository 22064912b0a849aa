/* graph_paths.c: from which root one comes to an object, and by what names.
 *
 * A walk in breadth finds a shortest way to every object, from the most telling kind of root first. Beside it grows a
 * table of owner paths: what is reached from the same path over the same name and is of the same kind shares one, so
 * that a hundred thousand sessions in a list are one path, and a path means the same in two dumps of a process.
 *
 * Where several ways are equally short the one whose path has the least hash is taken. That is arbitrary, but the same
 * in every dump, which the order of the file is not; and modules of the application hash below those of the library.
 */
#include "graph.h"

#include <stdlib.h>

/* A path that comes back to a name and a kind it had so few steps before has not become another: chains and trees. */
#define STEPS_BACK 6

typedef struct {
    const gh_graph *graph;
    const gh_naming *naming;
    gh_paths *paths;
    uint32_t *slots; /* number of a path, 0 free */
    uint32_t slots_mask;
} search;

static uint64_t
mix(uint64_t x)
{
    x ^= x >> 32;
    x *= UINT64_C(0xD6E8FEB86659FD93);
    x ^= x >> 32;
    x *= UINT64_C(0xD6E8FEB86659FD93);
    return x ^ x >> 32;
}

#define RANK (UINT64_C(1) << 63)

static uint64_t
step_hash(const search *s, uint32_t path, uint32_t label)
{
    const gh_naming *n = s->naming;
    uint64_t own = label == GH_KEY ? 1 : n->label_hashes[label];
    uint64_t parent = s->paths->path_hashes[path];
    return (mix(parent ^ mix(own)) & ~RANK) | (parent & RANK);
}

/* The path one step on; the same when it is full. */
static uint32_t
path_of(search *s, uint32_t parent, uint32_t label, uint32_t kind)
{
    gh_paths *p = s->paths;
    uint32_t back = parent;
    for (int i = 0; i < STEPS_BACK && back != 0; i++, back = p->path_parents[back]) {
        if (p->path_labels[back] == label && p->path_kinds[back] == kind)
            return back;
    }
    uint64_t kind_hash = s->naming->kind_hashes[kind];
    uint64_t hash = mix(step_hash(s, parent, label) ^ mix(kind_hash)) & ~RANK;
    hash |= (parent == 0 ? kind_hash : p->path_hashes[parent]) & RANK;
    uint32_t slot = (uint32_t)hash & s->slots_mask;
    for (; s->slots[slot] != 0; slot = (slot + 1) & s->slots_mask) {
        uint32_t known = s->slots[slot];
        if (p->path_hashes[known] == hash && p->path_parents[known] == parent && p->path_labels[known] == label
            && p->path_kinds[known] == kind)
            return known;
    }
    if (p->count >= s->naming->paths_max) {
        p->merged++;
        return parent;
    }
    s->slots[slot] = p->count;
    p->path_parents[p->count] = parent;
    p->path_labels[p->count] = label;
    p->path_kinds[p->count] = kind;
    p->path_hashes[p->count] = hash;
    return p->count++;
}

/* What v, or the dictionary that is part of it, leads to. Returns where the order ends. */
static uint32_t
step_from(search *s, uint32_t v, uint32_t end)
{
    const gh_graph *g = s->graph;
    gh_paths *p = s->paths;
    const uint32_t *labels = s->naming->labels, *owners = s->naming->owners;
    for (uint32_t e = g->offsets[v]; e < g->offsets[v + 1]; e++) {
        uint32_t t = g->targets[e];
        if (p->parents[t] == GH_NONE) {
            p->parents[t] = v;
            p->vias[t] = labels[e];
            p->order[end++] = t;
            /* A part of its owner is no step: it is where the owner is, and what it has is as near. Parts have none. */
            if (owners[t] == v && owners[v] == GH_NONE) {
                p->paths[t] = p->paths[v];
                end = step_from(s, t, end);
            }
        } else if (p->paths[t] == GH_NONE
                   && step_hash(s, p->paths[v], labels[e]) < step_hash(s, p->paths[p->parents[t]], p->vias[t])) {
            p->parents[t] = v;
            p->vias[t] = labels[e];
        }
    }
    return end;
}

/* Levels of one search: nodes at order[from..to) are known, with their paths. Returns where the order ends. */
static uint32_t
spread(search *s, uint32_t from, uint32_t to)
{
    gh_paths *p = s->paths;
    while (from < to) {
        uint32_t end = to;
        for (uint32_t i = from; i < to; i++) {
            if (s->naming->owners[p->order[i]] == GH_NONE)
                end = step_from(s, p->order[i], end);
        }
        /* Only now are all ways of this length known. */
        for (uint32_t i = to; i < end; i++) {
            uint32_t v = p->order[i];
            if (p->paths[v] == GH_NONE)
                p->paths[v] = path_of(s, p->paths[p->parents[v]], p->vias[v], s->naming->kinds[v]);
        }
        from = to;
        to = end;
    }
    return to;
}

bool
gh_owner_paths(const gh_graph *graph, const gh_naming *naming, gh_paths *paths)
{
    uint32_t root = graph->nodes - 2, slots = 1024;
    while (slots / 2 < naming->paths_max && slots < UINT32_C(1) << 31)
        slots *= 2;
    search s = {.graph = graph, .naming = naming, .paths = paths, .slots_mask = slots - 1};
    s.slots = calloc(slots, sizeof(uint32_t));
    if (s.slots == NULL)
        return false;
    for (uint32_t v = 0; v < graph->nodes; v++)
        paths->parents[v] = paths->vias[v] = paths->paths[v] = paths->order[v] = GH_NONE;
    paths->path_parents[0] = paths->path_labels[0] = paths->path_kinds[0] = 0;
    paths->path_hashes[0] = 0;
    paths->count = 1;
    paths->merged = 0;
    uint32_t end = 0;
    for (uint32_t kind = GH_MODULE; kind < GH_ROOT_KINDS; kind++) {
        uint32_t begin = end;
        for (uint32_t v = 0; v < root; v++) {
            if (naming->root_kinds[v] != kind || paths->parents[v] != GH_NONE)
                continue;
            paths->parents[v] = root;
            paths->vias[v] = 0;
            paths->paths[v] = path_of(&s, 0, naming->names + kind, naming->kinds[v]);
            paths->order[end++] = v;
        }
        end = spread(&s, begin, end);
    }
    free(s.slots);
    return true;
}
