/* graph_dominators.c: who alone keeps what alive.
 *
 * Lengauer and Tarjan 1979, the simple version: O(m log n) whatever the shape, where the shorter algorithms are
 * quadratic on some, and a heap may well be one list of five million links. Nothing recurses, for the same reason.
 * Within, a node is its number in depth-first order: that makes "comes before" a comparison and memory local.
 */
#include "graph.h"

#include <stdlib.h>
#include <string.h>

typedef struct {
    const gh_graph *graph;
    uint32_t count;    /* of numbered nodes */
    uint32_t *numbers; /* node to number, GH_NONE before */
    uint32_t *nodes;   /* number to node */
    uint32_t *parents; /* number to number of the tree's parent */
    uint32_t *cursors; /* node to the edge to follow next */
    uint32_t *predecessor_offsets, *predecessors;
    uint32_t *semi, *labels, *ancestors, *idoms, *bucket_heads, *bucket_next, *stack;
} walk;

static uint32_t *
array(size_t length)
{
    return malloc((length + 1) * sizeof(uint32_t));
}

/* Numbers everything that can be reached from start and has no number yet. */
static void
number_from(walk *w, uint32_t start, uint32_t parent)
{
    const gh_graph *g = w->graph;
    uint32_t top = w->count;
    w->numbers[start] = w->count;
    w->nodes[w->count] = start;
    w->parents[w->count++] = parent;
    uint32_t at = top;
    for (;;) {
        uint32_t v = w->nodes[at];
        uint32_t e = w->cursors[v], end = g->offsets[v + 1];
        while (e < end && w->numbers[g->targets[e]] != GH_NONE)
            e++;
        if (e < end) {
            uint32_t t = g->targets[e];
            w->cursors[v] = e + 1;
            w->numbers[t] = w->count;
            w->nodes[w->count] = t;
            w->parents[w->count] = at;
            at = w->count++;
        } else {
            w->cursors[v] = end;
            if (at == top)
                return;
            at = w->parents[at];
        }
    }
}

/* What nothing reaches: cycles nobody holds, and what they hold. It hangs below `garbage` by as few objects as can be:
 * the last to be finished by a depth-first walk stands in a component that no other unnumbered one leads to (Kosaraju),
 * so beginning with the last finished, each start is needed. */
static bool
number_garbage(walk *w, uint32_t garbage)
{
    const gh_graph *g = w->graph;
    uint32_t left = g->nodes - w->count;
    if (left == 0)
        return true;
    uint32_t *finished = array(left), *path = array(left);
    uint8_t *seen = calloc(g->nodes / 8 + 1, 1);
    bool fine = finished != NULL && path != NULL && seen != NULL;
    uint32_t finished_count = 0;
    for (uint32_t v = 0; fine && v < g->nodes; v++) {
        if (w->numbers[v] != GH_NONE || (seen[v / 8] >> (v % 8) & 1))
            continue;
        uint32_t depth = 0;
        path[depth++] = v;
        seen[v / 8] |= (uint8_t)(1u << (v % 8));
        while (depth > 0) {
            uint32_t u = path[depth - 1], e = w->cursors[u], end = g->offsets[u + 1];
            for (; e < end; e++) {
                uint32_t t = g->targets[e];
                if (w->numbers[t] == GH_NONE && !(seen[t / 8] >> (t % 8) & 1))
                    break;
            }
            if (e < end) {
                uint32_t t = g->targets[e];
                w->cursors[u] = e + 1;
                seen[t / 8] |= (uint8_t)(1u << (t % 8));
                path[depth++] = t;
            } else {
                w->cursors[u] = g->offsets[u];
                finished[finished_count++] = u;
                depth--;
            }
        }
    }
    while (fine && finished_count-- > 0) {
        uint32_t v = finished[finished_count];
        if (w->numbers[v] == GH_NONE)
            number_from(w, v, w->numbers[garbage]);
    }
    free(finished);
    free(path);
    free(seen);
    return fine;
}

/* The edges backwards, between numbers. garbage_at: garbage holds nothing that something else holds as well. */
static bool
find_predecessors(walk *w, uint32_t garbage_at)
{
    const gh_graph *g = w->graph;
    /* While it is filled, offsets[t + 1] is where the next predecessor of t goes; at the end it is where t's stop. */
    uint32_t *offsets = calloc((size_t)w->count + 2, sizeof(uint32_t));
    if (offsets == NULL)
        return false;
    w->predecessor_offsets = offsets;
    for (int fill = 0; fill < 2; fill++) {
        for (uint32_t i = 0; i < w->count; i++) {
            uint32_t v = w->nodes[i];
            for (uint32_t e = g->offsets[v]; e < g->offsets[v + 1]; e++) {
                uint32_t t = w->numbers[g->targets[e]];
                if (t == i || (i >= garbage_at && t < garbage_at))
                    continue;
                if (fill)
                    w->predecessors[offsets[t + 1]++] = i;
                else
                    offsets[t + 2]++;
            }
        }
        if (fill)
            break;
        for (uint32_t i = 2; i <= w->count + 1; i++)
            offsets[i] += offsets[i - 1];
        w->predecessors = array(offsets[w->count + 1]);
        if (w->predecessors == NULL)
            return false;
    }
    return true;
}

/* The one of least semidominator on the way from v up to the root of its tree of those done, which is left out. */
static uint32_t
least(walk *w, uint32_t v)
{
    uint32_t *ancestors = w->ancestors, *labels = w->labels, *semi = w->semi;
    if (ancestors[v] == GH_NONE)
        return v;
    uint32_t depth = 0;
    for (uint32_t u = v; ancestors[ancestors[u]] != GH_NONE; u = ancestors[u])
        w->stack[depth++] = u;
    while (depth > 0) {
        uint32_t u = w->stack[--depth], a = ancestors[u];
        if (semi[labels[a]] < semi[labels[u]])
            labels[u] = labels[a];
        ancestors[u] = ancestors[a];
    }
    return labels[v];
}

static void
find_dominators(walk *w)
{
    for (uint32_t i = 0; i < w->count; i++) {
        w->semi[i] = w->labels[i] = i;
        w->ancestors[i] = w->bucket_heads[i] = GH_NONE;
    }
    for (uint32_t i = w->count - 1; i > 0; i--) {
        uint32_t parent = w->parents[i], semi = parent;
        for (uint32_t e = w->predecessor_offsets[i]; e < w->predecessor_offsets[i + 1]; e++) {
            uint32_t s = w->semi[least(w, w->predecessors[e])];
            semi = s < semi ? s : semi;
        }
        w->semi[i] = semi;
        w->bucket_next[i] = w->bucket_heads[semi];
        w->bucket_heads[semi] = i;
        w->ancestors[i] = parent;
        for (uint32_t v = w->bucket_heads[parent]; v != GH_NONE; v = w->bucket_next[v]) {
            uint32_t u = least(w, v);
            w->idoms[v] = w->semi[u] < w->semi[v] ? u : parent;
        }
        w->bucket_heads[parent] = GH_NONE;
    }
    w->idoms[0] = 0;
    for (uint32_t i = 1; i < w->count; i++) {
        if (w->idoms[i] != w->semi[i])
            w->idoms[i] = w->idoms[w->idoms[i]];
    }
}

uint32_t
gh_dominators(const gh_graph *graph, uint32_t root, uint32_t garbage, uint32_t *idom, uint32_t *order)
{
    uint32_t nodes = graph->nodes, count = 0;
    walk w = {.graph = graph, .nodes = order};
    for (uint32_t v = 0; v < nodes; v++)
        idom[v] = order[v] = GH_NONE;
    w.numbers = array(nodes);
    w.parents = array(nodes);
    w.cursors = array(nodes);
    if (w.numbers == NULL || w.parents == NULL || w.cursors == NULL)
        goto done;
    memcpy(w.cursors, graph->offsets, nodes * sizeof(uint32_t));
    for (uint32_t v = 0; v < nodes; v++)
        w.numbers[v] = GH_NONE;
    number_from(&w, root, 0);
    uint32_t garbage_at = GH_NONE;
    if (garbage != GH_NONE) {
        garbage_at = w.count;
        number_from(&w, garbage, 0);
        if (!number_garbage(&w, garbage))
            goto done;
    }
    free(w.cursors);
    w.cursors = NULL;
    if (!find_predecessors(&w, garbage_at))
        goto done;
    free(w.numbers);
    w.numbers = NULL;
    w.semi = array(w.count);
    w.labels = array(w.count);
    w.ancestors = array(w.count);
    w.idoms = array(w.count);
    w.bucket_heads = array(w.count);
    w.bucket_next = array(w.count);
    w.stack = array(w.count);
    if (w.semi == NULL || w.labels == NULL || w.ancestors == NULL || w.idoms == NULL || w.bucket_heads == NULL
        || w.bucket_next == NULL || w.stack == NULL)
        goto done;
    find_dominators(&w);
    for (uint32_t i = 0; i < w.count; i++)
        idom[order[i]] = order[w.idoms[i]];
    count = w.count;
done:
    free(w.numbers);
    free(w.parents);
    free(w.cursors);
    free(w.predecessor_offsets);
    free(w.predecessors);
    free(w.semi);
    free(w.labels);
    free(w.ancestors);
    free(w.idoms);
    free(w.bucket_heads);
    free(w.bucket_next);
    free(w.stack);
    return count;
}

/* Adds every node's sum to its parent's, those furthest down first. order: parents before children. */
void
gh_sum_up(const uint32_t *parent, const uint32_t *order, uint32_t nodes, uint64_t *sums)
{
    for (uint32_t i = nodes; i-- > 0;) {
        uint32_t v = order[i];
        if (v != GH_NONE && parent[v] != GH_NONE && parent[v] != v)
            sums[parent[v]] += sums[v];
    }
}

/* A tree by parents becomes a graph: the children of v, in ascending order, at offsets[v]. */
void
gh_children(const uint32_t *parent, uint32_t nodes, uint32_t *offsets, uint32_t *children)
{
    memset(offsets, 0, ((size_t)nodes + 1) * sizeof(uint32_t));
    for (uint32_t v = 0; v < nodes; v++) {
        if (parent[v] != GH_NONE && parent[v] != v)
            offsets[parent[v]]++;
    }
    uint32_t end = 0;
    for (uint32_t v = 0; v <= nodes; v++) {
        end += v < nodes ? offsets[v] : 0;
        offsets[v] = end;
    }
    for (uint32_t v = nodes; v-- > 0;) {
        if (parent[v] != GH_NONE && parent[v] != v)
            children[--offsets[parent[v]]] = v;
    }
}

/* What the members of each group retain together: a member below another of its group is in that one's sum. */
bool
gh_retained_by_group(const gh_graph *tree, uint32_t root, const uint32_t *groups, uint32_t groups_count,
                     const uint64_t *retained, uint64_t *totals)
{
    uint32_t *inside = calloc((size_t)groups_count + 1, sizeof(uint32_t));
    uint32_t *path = array(tree->nodes), *cursors = array(tree->nodes);
    bool fine = inside != NULL && path != NULL && cursors != NULL;
    if (fine) {
        memset(totals, 0, groups_count * sizeof(uint64_t));
        uint32_t depth = 0;
        for (uint32_t next = root; next != GH_NONE;) {
            uint32_t group = groups[next];
            if (group < groups_count && inside[group]++ == 0)
                totals[group] += retained[next];
            cursors[next] = tree->offsets[next];
            path[depth++] = next;
            next = GH_NONE;
            while (depth > 0) {
                uint32_t v = path[depth - 1];
                if (cursors[v] < tree->offsets[v + 1]) {
                    next = tree->targets[cursors[v]++];
                    break;
                }
                if (groups[v] < groups_count)
                    inside[groups[v]]--;
                depth--;
            }
        }
    }
    free(inside);
    free(path);
    free(cursors);
    return fine;
}
