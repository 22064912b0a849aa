/* dump_objects.c: one object of a heap dump, and what only it leads to.
 *
 * Objects outside the collector's lists are met through whoever refers to them. They are written after it, at once, so that a
 * list of a million strings needs no memory here; only chains of such objects deeper than GB_DUMP_DEPTH_MAX wait in a
 * list, which has an end, and what it has no room for is counted as lost.
 */
#define Py_BUILD_CORE 1
#include "dump.h"

#ifdef GB_DUMP_POSSIBLE

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-parameter"
#pragma GCC diagnostic ignored "-Wsign-compare"
#include <internal/pycore_gc.h>
#pragma GCC diagnostic pop

#define IMMORTAL_REFERENCES 500000000

bool
gb_dump_is_tracked(PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);
    if (!(type->tp_flags & Py_TPFLAGS_HAVE_GC))
        return false;
    if (type->tp_flags & Py_TPFLAGS_TYPE_SUBCLASS) {
        if (!(((PyTypeObject *)object)->tp_flags & Py_TPFLAGS_HEAPTYPE))
            return false;
    } else if (type->tp_is_gc != NULL && !type->tp_is_gc(object)) {
        return false;
    }
    return ((PyGC_Head *)object - 1)->_gc_next != 0;
}

static bool
is_immortal(PyObject *object)
{
#if PY_VERSION_HEX >= 0x030C0000
    return _Py_IsImmortal(object);
#else
    return Py_REFCNT(object) > IMMORTAL_REFERENCES; /* what is built into the interpreter has a count nobody reaches */
#endif
}

/* ---- the record ------------------------------------------------------------------------------------------------- */

static uintptr_t *
seen_slot(const PyObject *object)
{
    return &gb_dump_now->seen[gb_hash_pointer(object) >> 44];
}

static void
begin(PyObject *object, uint32_t type, unsigned flags)
{
    gb_dump *d = gb_dump_now;
    const gb_dump_type *entry = &d->type[type];
    size_t length = 0;
    if (gb_dump_length(object, entry->kind, &length))
        flags |= GB_DUMP_HAS_LENGTH;
    if (gb_dump_is_tracked(object))
        flags |= GB_DUMP_TRACKED;
    if (is_immortal(object))
        flags |= GB_DUMP_IMMORTAL;
    d->object = object;
    d->flags = flags;
    d->head_written = false;
    d->edge_count = 0;
    d->edge_bytes = 0;
    size_t n = gb_varint(d->head, gb_zigzag((int64_t)((uintptr_t)object - d->previous)));
    n += gb_varint(d->head + n, type);
    n += gb_varint(d->head + n, flags);
    n += gb_varint(d->head + n, gb_dump_size(object, entry));
    n += gb_varint(d->head + n, flags & GB_DUMP_IMMORTAL || Py_REFCNT(object) < 0 ? 0 : (uint64_t)Py_REFCNT(object));
    if (flags & GB_DUMP_HAS_LENGTH)
        n += gb_varint(d->head + n, length);
    d->head_bytes = n;
}

/* Writes the references so far, with the object before the first of them. */
static void
put_edges(void)
{
    gb_dump *d = gb_dump_now;
    if (d->head_written)
        d->head_bytes = 0;
    d->head_bytes += gb_varint(d->head + d->head_bytes, d->edge_count);
    gb_dump_record(d->head_written ? 'E' : 'O', d->head, d->head_bytes, d->edge, d->edge_bytes);
    if (!d->head_written) {
        d->previous = (uintptr_t)d->object;
        d->objects++;
        d->head_written = true;
    }
    d->edges += d->edge_count;
    d->edge_count = 0;
    d->edge_bytes = 0;
    d->steps++;
    if (gb_monotonic_ns() > d->ends_ns && d->stop == GB_DUMP_COMPLETE)
        d->stop = GB_DUMP_TOO_LONG;
}

static bool
is_to_be_written(PyObject *target)
{
    return !gb_dump_is_tracked(target) && *seen_slot(target) != (uintptr_t)target;
}

void
gb_dump_edge(PyObject *target, uint32_t name)
{
    gb_dump *d = gb_dump_now;
    if (d->edge_count == GB_DUMP_EDGES_MAX)
        put_edges();
    uint8_t *at = d->edge + d->edge_bytes;
    size_t n = gb_varint(at, gb_zigzag((int64_t)((uintptr_t)target - (uintptr_t)d->object)));
    if (d->flags & GB_DUMP_NAMED)
        n += gb_varint(at + n, name);
    d->edge_bytes += n;
    d->edge_count++;
    if (is_to_be_written(target)) {
        if (d->targets_used < GB_DUMP_TARGETS_MAX)
            d->targets[d->targets_used++] = target;
        else
            d->targets_missed = true;
    }
}

/* ---- what nothing else writes ----------------------------------------------------------------------------------- */

void
gb_dump_reached(PyObject *object)
{
    gb_dump *d = gb_dump_now;
    if (object == NULL || !is_to_be_written(object))
        return;
    if (d->pending_used < GB_DUMP_PENDING_MAX)
        d->pending[d->pending_used++] = object;
    else
        d->lost++;
}

static int
write_target(PyObject *target, void *argument)
{
    (void)argument;
    if (target != NULL && is_to_be_written(target))
        gb_dump_object(target);
    return gb_dump_now->stop != GB_DUMP_COMPLETE;
}

static void
write_targets(PyObject *object, uint32_t type, uint32_t base, bool missed)
{
    gb_dump *d = gb_dump_now;
    const uint32_t end = d->targets_used;
    if (d->depth >= GB_DUMP_DEPTH_MAX) {
        for (uint32_t i = base; i < end; i++)
            gb_dump_reached(d->targets[i]);
        d->lost += missed;
    } else {
        d->depth++;
        for (uint32_t i = base; i < end && d->stop == GB_DUMP_COMPLETE; i++)
            write_target(d->targets[i], NULL);
        d->targets_used = base;
        if (missed && d->stop == GB_DUMP_COMPLETE)
            gb_dump_each_target(object, type, write_target); /* there was no room to remember them all */
        d->depth--;
    }
    d->targets_used = base;
}

void
gb_dump_object(PyObject *object)
{
    gb_dump *d = gb_dump_now;
    const uint32_t type = gb_dump_type_of(object);
    const gb_dump_type *entry = &d->type[type];
    const uint32_t base = d->targets_used;
    if (!gb_dump_is_tracked(object))
        *seen_slot(object) = (uintptr_t)object;
    d->targets_missed = false;
    begin(object, type, entry->leaf ? 0 : gb_dump_flags(object, entry));
    if (!entry->leaf)
        gb_dump_references(object, type);
    const bool missed = d->targets_missed;
    put_edges();
    if (entry->kind == GB_KIND_MODULE)
        gb_dump_module(object);
    if (entry->kind == GB_KIND_GENERATOR)
        gb_dump_called(object);
    if (d->targets_used > base || missed)
        write_targets(object, type, base, missed);
}

void
gb_dump_pending(void)
{
    gb_dump *d = gb_dump_now;
    while (d->pending_used > 0 && d->stop == GB_DUMP_COMPLETE) {
        PyObject *object = d->pending[--d->pending_used];
        if (is_to_be_written(object))
            gb_dump_object(object);
    }
}

#endif
