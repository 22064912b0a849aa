/* graph_parse.h: a heap dump that is being read: what graph_read.c, which touches no Python object, shares with
 * graph_parse.c, which makes the result. */
#ifndef GB_GRAPH_PARSE_H
#define GB_GRAPH_PARSE_H

#include "graph.h"

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
    uint32_t *called;             /* by turns the number of an object and that of its name */
    uint64_t called_count;
    uint32_t edges;
    const uint32_t *names; /* number in the file to number of the text */
    uint32_t names_count, types_count, types_seen, dict_name, dict_type;
    char error[256];
} parse;
static inline bool
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
static inline bool
read_difference(reader *r, uint64_t *value)
{
    uint64_t raw;
    if (!read_number(r, &raw))
        return false;
    *value = (raw >> 1) ^ (0 - (raw & 1));
    return true;
}

static inline bool
read_text(reader *r, reader *text)
{
    uint64_t length;
    if (!read_number(r, &length) || length > (uint64_t)(r->end - r->at))
        return false;
    *text = (reader){r->at, r->at + length};
    r->at += length;
    return true;
}
/* Says what is wrong and where; returns false. */
bool gh_fail(parse *p, const uint8_t *at, const char *format, ...);
/* The number of the object there, GH_NONE when it is not in the file. */
uint32_t gh_object_at(const parse *p, uint64_t address);

/* In this order, without the GIL; each false with p->error when the file contradicts itself, or without it when there is
 * no memory. Between them the caller makes room for what the next one fills. */
bool gh_survey(parse *p);
bool gh_number_objects(parse *p);
bool gh_connect(parse *p);

#endif
