/* dump.h: what the files of the heap dump share. One idea per file:
 *
 *   dump.c         the Python face: makes the child, waits for it, ends it
 *   dump_child.c   what the child does to itself, and the way through everything it writes
 *   dump_write.c   the file: records, bytes, limits
 *   dump_types.c   types and names, numbered
 *   dump_objects.c one object, and what only it leads to
 *   dump_edges.c   its references
 *   dump_hints.c   what they are called
 *   dump_sizes.c   how many bytes belong to an object
 *   dump_roots.c   frames of running threads, and what the interpreter holds itself
 *
 * Everything but dump.c runs in a copy of the process that has one thread. Another thread of the original may have held any
 * lock at that moment, so nothing there waits for one: no allocation, no Python code, no reference counted, no stdio.
 * What is read is what the process was when one thread held the GIL, which is why it can be read at all.
 *
 * The file is described in docs/heap-dump-format.md.
 */
#ifndef GB_DUMP_H
#define GB_DUMP_H

#include "core.h"

#if defined(__linux__) && !defined(GB_UNSUPPORTED)
#define GB_DUMP_POSSIBLE 1
#endif

#ifdef GB_DUMP_POSSIBLE

#include <setjmp.h>
#include <sys/types.h>

#define GB_DUMP_OUT_BYTES (1u << 20)
#define GB_DUMP_EDGES_MAX 4096u /* of one record; more follow in the next */
#define GB_DUMP_EDGE_BYTES 15u  /* two varints: an address and a number of 32 bits */
#define GB_DUMP_SEEN_SLOTS (1u << 20)
#define GB_DUMP_NAME_SLOTS (1u << 16)
#define GB_DUMP_NAME_BYTES_MAX 100u
#define GB_DUMP_TEXT_BYTES_MAX 300u
#define GB_DUMP_TYPES_MAX 32768u
#define GB_DUMP_TYPE_SLOTS 65536u
#define GB_DUMP_MEMBERS_MAX 65536u
#define GB_DUMP_HINTS_MAX 512u
#define GB_DUMP_TARGETS_MAX 65536u
#define GB_DUMP_PENDING_MAX 65536u
#define GB_DUMP_DEPTH_MAX 64u
#define GB_DUMP_FAULTS_MAX 1000u
#define GB_DUMP_LISTS_MAX 4u

/* Flags of an object, as in the file. */
enum {
    GB_DUMP_TRACKED = 1,
    GB_DUMP_IMMORTAL = 2,
    GB_DUMP_HAS_LENGTH = 4,
    GB_DUMP_KEY_VALUE = 8,
    GB_DUMP_NAMED = 16,
    GB_DUMP_ITEMS = 32
};

/* Why a dump ended, as in the file; above 99 it has no end record. */
enum {
    GB_DUMP_COMPLETE = 0,
    GB_DUMP_TOO_MANY_BYTES = 1,
    GB_DUMP_TOO_LONG = 2,
    GB_DUMP_TOO_MANY_FAULTS = 3,
    GB_DUMP_WRITE_FAILED = 100
};

/* Where an object's references are found, and how its size is. A type made from one of these is of its kind, except where the
 * name ends in _EXACT. */
typedef enum {
    GB_KIND_OTHER,
    GB_KIND_DICT_EXACT,
    GB_KIND_DICT,
    GB_KIND_LIST_EXACT,
    GB_KIND_LIST,
    GB_KIND_TUPLE_EXACT,
    GB_KIND_TUPLE,
    GB_KIND_SET,
    GB_KIND_LONG,
    GB_KIND_UNICODE,
    GB_KIND_BYTEARRAY,
    GB_KIND_DEQUE,
    GB_KIND_ARRAY,
    GB_KIND_NDARRAY,
    GB_KIND_TYPE,
    GB_KIND_MODULE,
    GB_KIND_FUNCTION,
    GB_KIND_CODE,
    GB_KIND_CELL,
    GB_KIND_GENERATOR,
    GB_KIND_FRAME,
    GB_KIND_EXCEPTION,
    GB_KIND_TRACEBACK
} gb_dump_kind;

typedef struct {
    PyTypeObject *type;
    gb_dump_kind kind;
    bool leaf;   /* its objects refer to nothing that can be seen */
    bool named;  /* its objects' references have names */
    bool broken; /* looking at one of its objects failed: no more are looked into */
    uint32_t members_at, members;
} gb_dump_type;

/* A reference as a field of the object: what T_OBJECT members, slots included, say of themselves. */
typedef struct {
    Py_ssize_t offset;
    uint32_t name;
} gb_dump_member;

typedef struct {
    PyObject *target;
    uint32_t name;
} gb_dump_hint;

/* The head of a NumPy array: PyArrayObject_fields, the same in every version of NumPy so far. */
typedef struct {
    PyObject head;
    char *data;
    int dimensions_count;
    int64_t *dimensions;
    int64_t *strides;
    PyObject *base;
    PyObject *description;
    int flags;
} gb_dump_ndarray;
#define GB_NDARRAY_CONTIGUOUS 1
#define GB_NDARRAY_OWNS_DATA 4

/* Written by the child, read by both. */
typedef struct {
    _Atomic uint64_t objects, edges, bytes, faults, lost, dirtied_kib, elapsed_us;
    _Atomic int error;
} gb_dump_progress;

/* What the child has, mapped by the parent, which never touches most of it. */
typedef struct {
    gb_dump_progress *progress;
    int fd;
    uint64_t bytes_max, bytes_written;
    uint64_t started_ns, ends_ns;
    int stop; /* GB_DUMP_…; not complete: nothing more is written */
    uint64_t objects, edges, faults, lost;
    PyInterpreterState *interp;
    PyThreadState *threads;
    uintptr_t lists[GB_DUMP_LISTS_MAX]; /* heads of the collector's; 0: none */

    /* Where the way back leads when reading an object goes wrong. */
    sigjmp_buf back;
    volatile bool can_go_back;
    volatile bool writing;
    volatile uint64_t steps; /* changes while there is progress */
    volatile uint64_t steps_at_alarm;
    uint32_t looking_at; /* type of the object looked into, plus one; 0: none */

    /* The object being written. */
    PyObject *object;
    uintptr_t previous; /* address of the one before */
    uint8_t head[96];
    size_t head_bytes;
    unsigned flags;
    bool head_written;
    uint32_t edge_count;
    size_t edge_bytes;
    uint32_t hints, hint_at;
    PyObject *attributes_dict; /* its __dict__, if that is an object */
    uint32_t depth;
    uint32_t targets_used, pending_used;
    bool targets_missed;

    uint32_t types, names, members;
    size_t out_used;
    uint8_t edge[(GB_DUMP_EDGES_MAX + 1) * GB_DUMP_EDGE_BYTES];
    uint8_t out[GB_DUMP_OUT_BYTES];
    gb_dump_hint hint[GB_DUMP_HINTS_MAX];
    gb_dump_type type[GB_DUMP_TYPES_MAX];
    uint32_t type_index[GB_DUMP_TYPE_SLOTS]; /* number + 1 */
    gb_dump_member member[GB_DUMP_MEMBERS_MAX];
    struct {
        const void *text;
        uint32_t number;
    } name[GB_DUMP_NAME_SLOTS];
    uintptr_t
        seen[GB_DUMP_SEEN_SLOTS]; /* objects outside the collector's lists that were written, as far as remembered */
    PyObject *targets[GB_DUMP_TARGETS_MAX];
    PyObject *pending[GB_DUMP_PENDING_MAX];
} gb_dump;

extern gb_dump *gb_dump_now;

/* ---- dump_write.c ---- */
size_t gb_varint(uint8_t *at, uint64_t value);
static inline uint64_t
gb_zigzag(int64_t value)
{
    return ((uint64_t)value << 1) ^ (uint64_t)(value >> 63);
}
/* One record; nothing when the limit is reached. */
void gb_dump_record(char tag, const uint8_t *head, size_t head_bytes, const uint8_t *tail, size_t tail_bytes);
void gb_dump_flush(void);
void gb_dump_end(void); /* the end record, and the last bytes */
/* A string of the file: its length, and UTF-8. Returns the bytes written, at most GB_DUMP_TEXT_BYTES_MAX + 2. */
size_t gb_dump_text(uint8_t *at, const char *text, size_t bytes);
size_t gb_dump_text_of(uint8_t *at, PyObject *text); /* of an exact str; anything else is an empty string */

/* ---- dump_types.c ---- */
uint32_t gb_dump_type_of(PyObject *object); /* its number; writes the type before its first use */
uint32_t gb_dump_name_of(PyObject *text);   /* 0: it is no name */
uint32_t gb_dump_name_of_c(const char *text);
void gb_dump_module(PyObject *module);    /* writes which module it is */
void gb_dump_called(PyObject *generator); /* writes whose generator or coroutine the object just written is */

/* ---- dump_sizes.c ---- */
size_t gb_dump_size(PyObject *object, const gb_dump_type *type);
bool gb_dump_length(PyObject *object, gb_dump_kind kind, size_t *length);

/* ---- dump_objects.c ---- */
bool gb_dump_is_tracked(PyObject *object);
void gb_dump_edge(PyObject *target, uint32_t name); /* of the object being written */
void gb_dump_object(PyObject *object);              /* and what only it leads to, as far as nothing else writes that */
void gb_dump_reached(PyObject *object);             /* something a root refers to: written when nothing else would */
void gb_dump_pending(void);

/* ---- dump_edges.c ---- */
unsigned gb_dump_flags(PyObject *object, const gb_dump_type *entry); /* those that say of which form its edges are */
void gb_dump_references(PyObject *object, uint32_t type);            /* makes an edge of each */
/* Hands out each object it refers to, without making edges, until the visitor returns more than 0. A target may be NULL. */
void gb_dump_each_target(PyObject *object, uint32_t type, visitproc visitor);

/* ---- dump_hints.c ---- */
void gb_dump_hints(PyObject *object, const gb_dump_type *entry); /* prepares the names */
uint32_t gb_dump_hint_for(const PyObject *target);               /* and takes one; 0: none is left for it */

/* ---- dump_roots.c ---- */
void gb_dump_root(unsigned kind, const void *address, const char *text);
void gb_dump_roots(void);
PyCodeObject *gb_dump_code_of(const void *frame); /* of a _PyInterpreterFrame; NULL: it runs no Python code */
PyObject *gb_dump_static_dict(PyTypeObject *type);
PyObject *gb_dump_subclasses(PyTypeObject *type); /* the dict of them; NULL where there is none */

/* ---- dump_child.c ---- */
_Noreturn void gb_dump_child(pid_t parent);

#endif

extern PyMethodDef gb_dump_methods[];

#endif
