/* graph_read.c: the three readings of a heap dump, without Python: which records there are, which number each object
 * gets, what each edge leads to; and from that, what holds what from outside. graph_parse.c says how it is read. */
#include "graph_parse.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool
gh_fail(parse *p, const uint8_t *at, const char *format, ...)
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

bool
gh_survey(parse *p)
{
    reader r = records_of(p);
    record found;
    while (next_record(p, &r, &found)) {
        p->counts[found.tag]++;
        if (found.tag == 'O' || found.tag == 'E' || found.tag == 'N')
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

uint32_t
gh_object_at(const parse *p, uint64_t address)
{
    for (uint32_t slot = first_slot(p, address); p->slots[slot] != 0; slot = (slot + 1) & p->slots_mask) {
        if (p->addresses[p->slots[slot] - 1] == address)
            return p->slots[slot] - 1;
    }
    return GH_NONE;
}

bool
gh_number_objects(parse *p)
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
                return gh_fail(p, found.payload.at, "edges that do not fit into their record");
            p->edges_max += kept ? edges : 0;
        }
        if (found.tag == 'N') {
            uint64_t name;
            if (!read_number(&found.payload, &name) || name >= p->names_count)
                return gh_fail(p, found.payload.at, "the name of an object, which was not told");
            if (kept) {
                p->called[2 * p->called_count] = p->nodes - 1;
                p->called[2 * p->called_count++ + 1] = p->names[name];
            }
        }
        if (found.tag != 'O')
            continue;
        object_head o;
        if (!read_head(&found.payload, &o) || o.edges > (uint64_t)(found.payload.end - found.payload.at))
            return gh_fail(p, found.payload.at, "an object that does not fit into its record");
        if (o.type >= p->types_count)
            return gh_fail(p, found.payload.at, "an object of type %llu, which was not told",
                           (unsigned long long)o.type);
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
            return gh_fail(p, r->at, "an edge that does not fit into its record");
        if (name >= p->names_count)
            return gh_fail(p, r->at, "an edge with name %llu, which was not told", (unsigned long long)name);
        if (flags & WEAK)
            continue;
        uint32_t target = gh_object_at(p, address + difference);
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
        uint64_t count = 0;
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
        uint64_t number = 0, address, count;
        if (p->others[i].tag == 'M' || p->others[i].tag == 'R') {
            bool module = p->others[i].tag == 'M';
            if ((!module && !read_number(&r, &number)) || !read_number(&r, &address) || !read_text(&r, &text))
                return gh_fail(p, r.at, "a root that does not fit into its record");
            uint32_t v = gh_object_at(p, address);
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
                return gh_fail(p, r.at, "a frame that does not fit into its record");
            for (uint64_t e = 0; e < count; e++) {
                if (!read_number(&r, &address) || !read_number(&r, &number) || number >= p->names_count)
                    return gh_fail(p, r.at, "a local of a frame that does not fit into its record");
                uint32_t v = gh_object_at(p, address);
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

bool
gh_connect(parse *p)
{
    if (!find_edges(p) || !read_roots(p))
        return false;
    find_hidden_roots(p);
    join_modules(p);
    give_dictionaries_to_owners(p);
    end_rows(p);
    return true;
}
