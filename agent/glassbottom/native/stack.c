/* stack.c: walks Python frames with borrowed reads, and remembers call paths as a tree.
 *
 * The walk touches only the interpreter's own frame structures, which the thread that holds the GIL may read at any
 * moment an allocator can be called. Lines are not resolved here: a frame is its code object and the offset of the
 * instruction, and ordinary Python turns that into names later, in the agent's own thread. That needs the code object
 * to stay, so each one kept has one strong reference; it is released at a safe point, never in a hook.
 *
 * A path is a node whose parent is its caller. Paths are entered from the outside in, so common prefixes are shared.
 * What the process worked on, the label, is the outermost node of all: one without code, whose offset is the label. So
 * equal paths under two labels are two paths, and everything that is summed by path is summed by label too.
 */
#define Py_BUILD_CORE 1
#include "core.h"

#include <string.h>

#ifndef GB_UNSUPPORTED
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-parameter"
#pragma GCC diagnostic ignored "-Wsign-compare"
#if PY_VERSION_HEX >= 0x030E0000
#include <internal/pycore_interpframe.h>
#else
#include <internal/pycore_frame.h>
#endif
#pragma GCC diagnostic pop
#endif

/* Most samples are of a path seen before. Looking it up whole touches one line of memory; frame by frame it would be
 * two for each of up to 96, cold ones, and cost more than the walk. 64 bits of hash stand for the path: among as many
 * paths as there are nodes, two that agree by accident are not to be expected in the life of the universe. */
static gb_path_slot heap_path_cache[GB_PATH_CACHE_SLOTS];

gb_paths gb_stacks = {.nodes_used = GB_NODE_FIRST,
                      .codes_used = 1,
                      .cache = heap_path_cache,
                      .nodes_max = GB_NODES_MAX,
                      .codes_max = GB_CODES_MAX,
                      .node_slots = GB_NODE_INDEX_SLOTS,
                      .code_slots = GB_CODE_INDEX_SLOTS,
                      .cache_slots = GB_PATH_CACHE_SLOTS};

#ifndef GB_UNSUPPORTED

/* The code object of a frame that runs Python code, or NULL for entry trampolines. The code objects themselves are not
 * looked into: with a hundred callers they are a hundred lines of memory that are likely cold, and would be most of what
 * a sample costs. */
static inline PyCodeObject *
code_of_frame(const _PyInterpreterFrame *f, const _Py_CODEUNIT **at)
{
#if PY_VERSION_HEX >= 0x030E0000
    *at = f->instr_ptr;
    /* The low bits of a stack reference are tags. */
    return f->owner >= FRAME_OWNED_BY_INTERPRETER ? NULL : (PyCodeObject *)(f->f_executable.bits & ~(uintptr_t)3);
#elif PY_VERSION_HEX >= 0x030D0000
    *at = f->instr_ptr;
    return f->owner == FRAME_OWNED_BY_CSTACK ? NULL : (PyCodeObject *)f->f_executable;
#elif PY_VERSION_HEX >= 0x030C0000
    *at = f->prev_instr;
    return f->owner == FRAME_OWNED_BY_CSTACK ? NULL : f->f_code;
#else
    *at = f->prev_instr;
    return f->f_code;
#endif
}

unsigned
gb_walk_gil(PyThreadState *ts, gb_frame frames[GB_FRAMES_MAX], bool *truncated)
{
    unsigned n = 0;
    unsigned steps = 0;
    *truncated = false;
#if PY_VERSION_HEX >= 0x030D0000
    const _PyInterpreterFrame *f = ts->current_frame;
#else
    /* NULL while a thread is being set up. */
    const _PyInterpreterFrame *f = ts->cframe == NULL ? NULL : ts->cframe->current_frame;
#endif
    for (; f != NULL; f = f->previous) {
        if (++steps > GB_WALK_MAX) {
            *truncated = true;
            break;
        }
        const _Py_CODEUNIT *at;
        PyCodeObject *code = code_of_frame(f, &at);
        if (code == NULL)
            continue;
        Py_ssize_t units = at - _PyCode_CODE(code);
        /* Only the innermost frame can be one still being built: whoever called has begun. */
        if (n == 0 && f->owner != FRAME_OWNED_BY_GENERATOR && units < code->_co_firsttraceable)
            continue;
        if (n == GB_FRAMES_MAX) {
            *truncated = true;
            break;
        }
        frames[n].code = code;
        frames[n].offset =
            units < 0 || units > INT32_MAX / 2 ? -1 : (int32_t)(units * (Py_ssize_t)sizeof(_Py_CODEUNIT));
        n++;
    }
    return n;
}

#else

unsigned
gb_walk_gil(PyThreadState *ts, gb_frame frames[GB_FRAMES_MAX], bool *truncated)
{
    (void)ts;
    (void)frames;
    *truncated = false;
    return 0;
}

#endif

static uint32_t
intern_code_locked(gb_paths *g, PyCodeObject *code, bool take_reference)
{
    uint32_t i = (uint32_t)(gb_hash_pointer(code) >> 49) & (g->code_slots - 1);
    while (g->code_index[i] != 0) {
        if (g->codes[g->code_index[i]] == code)
            return g->code_index[i];
        i = (i + 1) & (g->code_slots - 1);
    }
    if (g->codes_used == g->codes_max)
        return 0;
    uint32_t id = g->codes_used++;
    if (take_reference)
        Py_INCREF(code); /* it runs right now, so it is alive; while we hold this its address means only it */
    g->codes[id] = code;
    g->code_index[i] = id;
    return id;
}

uint32_t
gb_intern_code_locked(gb_paths *g, PyCodeObject *code)
{
    return intern_code_locked(g, code, true);
}

static inline uint32_t
node_home(const gb_paths *g, uint32_t parent, uint32_t code, int32_t offset)
{
    uint64_t h = ((uint64_t)parent << 32 | code) * UINT64_C(0x9E3779B97F4A7C15);
    h = (h ^ (h >> 29) ^ (uint32_t)offset) * UINT64_C(0xBF58476D1CE4E5B9);
    return (uint32_t)(h >> 40) & (g->node_slots - 1);
}

static uint32_t
intern_node_locked(gb_paths *g, uint32_t parent, uint32_t code, int32_t offset)
{
    uint32_t i = node_home(g, parent, code, offset);
    while (g->node_index[i] != 0) {
        const gb_node *n = &g->nodes[g->node_index[i]];
        if (n->parent == parent && n->code == code && n->offset == offset)
            return g->node_index[i];
        i = (i + 1) & (g->node_slots - 1);
    }
    if (g->nodes_used == g->nodes_max)
        return 0;
    uint32_t id = g->nodes_used++;
    g->nodes[id] = (gb_node){.parent = parent, .code = code, .offset = offset};
    g->node_index[i] = id;
    return id;
}

static uint64_t
hash_of_path(const gb_frame *frames, unsigned n, bool truncated, uint32_t label)
{
    uint64_t h = (truncated ? UINT64_C(0xD1B54A32D192ED03) : UINT64_C(0x2545F4914F6CDD1D)) ^ label;
    h *= UINT64_C(0xBF58476D1CE4E5B9);
    for (unsigned i = 0; i < n; i++) {
        /* All bits of the offset count: a function can be longer than 64 KiB. */
        h ^= (uint64_t)(uintptr_t)frames[i].code + (uint32_t)frames[i].offset * UINT64_C(0xD6E8FEB86659FD93);
        h *= UINT64_C(0x9E3779B97F4A7C15);
        h ^= h >> 29;
    }
    return h | 1; /* 0: empty */
}

static uint32_t intern_path_locked(gb_paths *g, const gb_frame *frames, unsigned n, bool truncated, uint32_t label);

uint32_t
gb_intern_locked(gb_paths *g, const gb_frame *frames, unsigned n, bool truncated, uint32_t label)
{
    if (n == 0)
        return GB_NODE_NATIVE;
    if (truncated)
        g->truncated++;
    uint64_t hash = hash_of_path(frames, n, truncated, label);
    gb_path_slot *slot = &g->cache[(uint32_t)(hash >> 40) & (g->cache_slots - 1)];
    if (GB_LIKELY(slot->hash == hash))
        return slot->node;
    uint32_t node = intern_path_locked(g, frames, n, truncated, label);
    if (node != GB_NODE_OVERFLOW) {
        slot->hash = hash;
        slot->node = node;
    }
    return node;
}

static uint32_t
intern_path_locked(gb_paths *g, const gb_frame *frames, unsigned n, bool truncated, uint32_t label)
{
    uint32_t node = truncated ? GB_NODE_TRUNCATED : GB_NODE_NONE;
    if (label != 0 && (node = intern_node_locked(g, node, 0, (int32_t)label)) == 0) {
        g->overflowed++;
        return GB_NODE_OVERFLOW;
    }
    while (n-- > 0) {
        uint32_t code = intern_code_locked(g, frames[n].code, true);
        node = code == 0 ? 0 : intern_node_locked(g, node, code, frames[n].offset);
        if (node == 0) {
            g->overflowed++;
            return GB_NODE_OVERFLOW;
        }
    }
    return node;
}

void
gb_stacks_clear_locked(gb_paths *g)
{
    memset(g->nodes, 0, g->nodes_used * sizeof(gb_node));
    memset(g->node_index, 0, g->node_slots * sizeof(uint32_t));
    memset(g->cache, 0, g->cache_slots * sizeof(gb_path_slot));
    g->nodes_used = GB_NODE_FIRST;
}

PyObject *
gb_path_to_python(const gb_paths *g, uint32_t node)
{
    PyObject *frames = PyList_New(0);
    if (frames == NULL)
        return NULL;
    uint32_t at = node, label = 0;
    for (; at >= GB_NODE_FIRST; at = g->nodes[at].parent) {
        const gb_node *n = &g->nodes[at];
        if (n->code == 0) {
            label = (uint32_t)n->offset;
            continue;
        }
        if (g->codes[n->code] == NULL)
            continue; /* released: nothing live has this path, and only who has kept its number may ask */
        PyObject *frame = Py_BuildValue("(Oi)", g->codes[n->code], (int)n->offset);
        if (frame == NULL || PyList_Append(frames, frame) < 0) {
            Py_XDECREF(frame);
            Py_DECREF(frames);
            return NULL;
        }
        Py_DECREF(frame);
    }
    return Py_BuildValue("(NOI)", frames, at == GB_NODE_TRUNCATED || at == GB_NODE_OVERFLOW ? Py_True : Py_False,
                         label);
}

/* Marks the nodes of every live sample and of their callers. */
static void
mark_live(const gb_paths *g, uint32_t *map)
{
    for (uint32_t i = 0; i < GB_TABLE_SLOTS; i++) {
        if (gb_live.slots[i].ptr == NULL)
            continue;
        for (uint32_t node = gb_live.slots[i].node; node >= GB_NODE_FIRST && map[node] == 0;
             node = g->nodes[node].parent)
            map[node] = 1;
    }
}

size_t
gb_codes_release_dead_locked(PyCodeObject **released, uint32_t *live_nodes, uint8_t *live_codes)
{
    gb_paths *g = &gb_stacks;
    mark_live(g, live_nodes);
    for (uint32_t node = GB_NODE_FIRST; node < g->nodes_used; node++) {
        if (live_nodes[node] != 0)
            live_codes[g->nodes[node].code] = 1;
    }
    size_t count = 0;
    for (uint32_t id = 1; id < g->codes_used; id++) {
        /* Nobody can call a function whose code only we hold, so no sample will have it again. */
        if (g->codes[id] == NULL || live_codes[id] || Py_REFCNT(g->codes[id]) != 1)
            continue;
        released[count++] = g->codes[id];
        /* Its slot of the index stays taken: others may lie behind it. No node is forgotten, so no number changes. */
        g->codes[id] = NULL;
    }
    g->codes_released += (uint32_t)count;
    if (count > 0) /* it goes by addresses, and those of the dead will be others' */
        memset(g->cache, 0, g->cache_slots * sizeof(gb_path_slot));
    return count;
}

size_t
gb_stacks_compact_locked(PyCodeObject **released, size_t *released_count, gb_node *scratch, uint32_t *map)
{
    gb_paths *g = &gb_stacks;
    uint32_t nodes_before = g->nodes_used;
    memset(map, 0, nodes_before * sizeof(uint32_t));
    mark_live(g, map);
    bool idle = false;
    for (uint32_t id = GB_NODE_FIRST; id < nodes_before && !idle; id++)
        idle = map[id] == 0;
    *released_count = 0;
    if (!idle)
        return 0;
    memcpy(scratch, g->nodes, nodes_before * sizeof(gb_node));
    gb_stacks_clear_locked(g);
    atomic_fetch_add(&gb_epoch, 1);

    /* A parent always has a smaller id than its children, so one pass renumbers. Codes are renumbered the same way. */
    PyCodeObject **old_codes = released; /* the caller's array holds the old numbering first, the leavers at the end */
    uint32_t codes_before = g->codes_used;
    memcpy(old_codes, g->codes, codes_before * sizeof(*old_codes));
    memset(g->codes, 0, codes_before * sizeof(*g->codes));
    memset(g->code_index, 0, g->code_slots * sizeof(uint32_t));
    g->codes_used = 1;
    g->codes_released = 0;

    for (uint32_t id = 0; id < GB_NODE_FIRST; id++)
        map[id] = id;
    for (uint32_t id = GB_NODE_FIRST; id < nodes_before; id++) {
        if (map[id] == 0)
            continue;
        /* The old table's reference moves to the new one. */
        uint32_t code_id = scratch[id].code == 0 ? 0 : intern_code_locked(g, old_codes[scratch[id].code], false);
        map[id] = intern_node_locked(g, map[scratch[id].parent], code_id, scratch[id].offset);
    }
    for (uint32_t i = 0; i < GB_TABLE_SLOTS; i++) {
        if (gb_live.slots[i].ptr != NULL)
            gb_live.slots[i].node = map[gb_live.slots[i].node];
    }
    size_t leavers = 0;
    for (uint32_t id = 1; id < codes_before; id++) {
        bool stays = old_codes[id] == NULL; /* released before */
        uint32_t i = (uint32_t)(gb_hash_pointer(old_codes[id]) >> 49) & (g->code_slots - 1);
        for (; g->code_index[i] != 0 && !stays; i = (i + 1) & (g->code_slots - 1))
            stays = g->codes[g->code_index[i]] == old_codes[id];
        if (!stays)
            released[leavers++] = old_codes[id]; /* leavers < id: never overwrites an entry still to be read */
    }
    *released_count = leavers;
    return (nodes_before - g->nodes_used) + leavers;
}

/* Hands out every code reference, to be released outside the lock; returns how many. Only when no node is left. */
size_t
gb_codes_take_locked(gb_paths *g, PyCodeObject **released)
{
    size_t count = 0;
    for (uint32_t id = 1; id < g->codes_used; id++) {
        if (g->codes[id] != NULL)
            released[count++] = g->codes[id];
    }
    memset(g->code_index, 0, g->code_slots * sizeof(uint32_t));
    g->codes_used = 1;
    g->codes_released = 0;
    return count;
}
