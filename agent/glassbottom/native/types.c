/* types.c: which type lives in a sampled block, found without running user code and without trusting the block.
 *
 * A block handed out for an object begins with the object, after a header whose size follows from the type's flags.
 * The word where the type pointer would be is looked up in the set of types known to exist; nothing it points to is
 * read, and the entry must agree with the header's size and the block's. So a stale word in a buffer is at worst a
 * wrong label, never a crash.
 *
 * A block is read by process_vm_readv, which answers an address that is gone with an error: should a free have been
 * missed because another tool had removed our hook for a moment, a stale address costs a label and nothing else.
 *
 * The set is refreshed once a minute by walking type.__subclasses__ from object, a few classes at a time, so that no
 * single hold of the GIL is long. `type.__subclasses__` is called as the function of `type` itself: metaclasses are
 * not asked. Entries do not keep types alive.
 */
#include "core.h"

#include <errno.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#define REFRESH_NS UINT64_C(60000000000)
#define REFRESH_UNKNOWN_NS UINT64_C(20000000000) /* when blocks were met whose type is not in the set */
#define NAMES_MAX (GB_TYPES_MAX + 16)
#define NAME_CHARS_MAX 512

uint32_t gb_types_known;
bool gb_types_missed; /* a snapshot met an object of a type not in the set */

/* Two sets: one answers while the other is built. Written with the GIL and the lock, read under the lock. */
static gb_type_entry sets[2][GB_TYPE_SLOTS];
static gb_type_entry *active = sets[0];
static gb_type_entry *building = sets[1];
static uint32_t building_count;

static PyObject *names;         /* list of str */
static PyObject *index_of_name; /* dict str -> int */
static PyObject *subclasses;    /* type.__subclasses__, unbound */
static PyObject *queue;         /* list of classes still to be asked; holds them only during a walk */
static Py_ssize_t queue_at;
static uint64_t finished_at_ns;

static const char *const LABELS[] = {"<buffer>", "<buffer:mem>", "<unknown:obj>", "<other>", "<dict keys>"};
enum { LABEL_OTHER = 3, LABEL_DICT_KEYS = 4 };

int
gb_types_init(void)
{
    if (names != NULL)
        return 0;
    names = PyList_New(0);
    index_of_name = PyDict_New();
    subclasses = PyObject_GetAttrString((PyObject *)&PyType_Type, "__subclasses__");
    if (names == NULL || index_of_name == NULL || subclasses == NULL)
        return -1;
    for (size_t i = 0; i < sizeof(LABELS) / sizeof(*LABELS); i++) {
        PyObject *label = PyUnicode_FromString(LABELS[i]);
        if (label == NULL || PyList_Append(names, label) < 0) {
            Py_XDECREF(label);
            return -1;
        }
        Py_DECREF(label);
    }
    return 0;
}

PyObject *
gb_type_names(void)
{
    return names;
}

uint32_t
gb_label_index(uint32_t domain)
{
    return domain; /* LABELS is in the order of GB_DOMAIN_… */
}

static inline uint32_t
home(const void *type)
{
    return (uint32_t)(gb_hash_pointer(type) >> 49) & (GB_TYPE_SLOTS - 1);
}

static gb_type_entry *
find(gb_type_entry *set, const void *type)
{
    uint32_t i = home(type);
    while (set[i].type != NULL && set[i].type != type)
        i = (i + 1) & (GB_TYPE_SLOTS - 1);
    return &set[i];
}

/* The hash table of a dict is a block of its own and no object. Its head tells its exact size, which a block that is
 * something else will not have. Source: struct _dictkeysobject in pycore_dict.h, the same from 3.11 to 3.14. */
static bool
is_dict_keys(const char *start, size_t size)
{
    struct {
        Py_ssize_t refcnt;
        uint8_t log2_size, log2_index_bytes, kind;
        uint32_t version;
        Py_ssize_t usable, entries;
    } keys;
    if (size <= sizeof keys)
        return false;
    memcpy(&keys, start, sizeof keys);
    if (keys.refcnt <= 0 || keys.kind > 2 || keys.log2_size < 3 || keys.log2_size > 40 || keys.log2_index_bytes > 44
        || keys.log2_index_bytes < keys.log2_size)
        return false;
    size_t room = ((size_t)2 << keys.log2_size) / 3;
    size_t entry = (keys.kind == 0 ? 3 : 2) * sizeof(void *);
    return keys.usable >= 0 && keys.entries >= 0 && (size_t)keys.usable + (size_t)keys.entries <= room
           && size == sizeof keys + ((size_t)1 << keys.log2_index_bytes) + room * entry;
}

uint32_t
gb_type_of_head(const char *start, size_t size)
{
    for (uint32_t offset = 0; offset + sizeof(PyObject) <= GB_HEAD_BYTES && offset + sizeof(PyObject) <= size;
         offset += 16) {
        PyObject head;
        memcpy(&head, start + offset, sizeof(head));
        if (head.ob_type == NULL)
            continue;
        const gb_type_entry *e = find(active, head.ob_type);
        if (e->type == NULL || e->offset != offset || (size_t)e->basicsize + offset > size)
            continue;
        if (Py_REFCNT(&head) <= 0)
            continue;
        return e->name + 1;
    }
    return is_dict_keys(start, size) ? LABEL_DICT_KEYS + 1 : 0;
}

void
gb_read_heads(const void *const *blocks, const size_t *sizes, size_t count, char (*heads)[GB_HEAD_BYTES], bool *read)
{
    enum { BATCH = 256 };
    struct iovec local[BATCH], remote[BATCH];
    static bool forbidden; /* by a seccomp filter: then types stay unknown */
    for (size_t i = 0; i < count; i++)
        read[i] = false;
    for (size_t i = 0; i < count && !forbidden;) {
        size_t n = 0;
        for (; n < BATCH && i + n < count; n++) {
            size_t bytes = sizes[i + n] < GB_HEAD_BYTES ? sizes[i + n] : GB_HEAD_BYTES;
            local[n] = (struct iovec){heads[i + n], bytes};
            remote[n] = (struct iovec){(void *)(uintptr_t)blocks[i + n], bytes};
        }
        ssize_t got = process_vm_readv(getpid(), local, n, remote, n, 0);
        if (got < 0 && errno != EFAULT) {
            forbidden = true;
            break;
        }
        size_t done = 0;
        for (; done < n && got >= (ssize_t)local[done].iov_len; done++) {
            got -= (ssize_t)local[done].iov_len;
            read[i + done] = true;
        }
        i += done < n ? done + 1 : n; /* past the address that is gone */
    }
}

/* "module.qualname", builtins without the module; new reference or NULL with an exception. Runs no user code: reads
 * the type's own slots, and its dict by an exact string. */
static PyObject *
name_of(PyTypeObject *type)
{
    if (!(type->tp_flags & Py_TPFLAGS_HEAPTYPE))
        return PyUnicode_DecodeUTF8(type->tp_name, (Py_ssize_t)strnlen(type->tp_name, NAME_CHARS_MAX), "replace");
    PyObject *qualname = ((PyHeapTypeObject *)type)->ht_qualname;
    if (qualname == NULL || !PyUnicode_CheckExact(qualname))
        return PyUnicode_DecodeUTF8(type->tp_name, (Py_ssize_t)strnlen(type->tp_name, NAME_CHARS_MAX), "replace");
    PyObject *module = type->tp_dict == NULL ? NULL : PyDict_GetItemString(type->tp_dict, "__module__");
    PyObject *full;
    if (module == NULL || !PyUnicode_CheckExact(module) || PyUnicode_CompareWithASCIIString(module, "builtins") == 0)
        full = Py_NewRef(qualname);
    else
        full = PyUnicode_FromFormat("%U.%U", module, qualname);
    if (full != NULL && PyUnicode_GET_LENGTH(full) > NAME_CHARS_MAX)
        Py_SETREF(full, PyUnicode_Substring(full, 0, NAME_CHARS_MAX));
    return full;
}

static uint32_t
index_for(PyTypeObject *type)
{
    PyObject *name = name_of(type);
    if (name == NULL)
        goto other;
    PyObject *known = PyDict_GetItemWithError(index_of_name, name);
    if (known != NULL) {
        uint32_t i = (uint32_t)PyLong_AsUnsignedLong(known);
        Py_DECREF(name);
        return i;
    }
    if (PyErr_Occurred() || PyList_GET_SIZE(names) >= NAMES_MAX)
        goto other;
    PyObject *index = PyLong_FromSsize_t(PyList_GET_SIZE(names));
    if (index == NULL || PyDict_SetItem(index_of_name, name, index) < 0 || PyList_Append(names, name) < 0) {
        Py_XDECREF(index);
        goto other;
    }
    uint32_t i = (uint32_t)PyLong_AsUnsignedLong(index);
    Py_DECREF(index);
    Py_DECREF(name);
    return i;
other:
    PyErr_Clear();
    Py_XDECREF(name);
    return LABEL_OTHER;
}

static void
learn(PyTypeObject *type)
{
    if (building_count >= GB_TYPES_MAX)
        return;
    gb_type_entry *e = find(building, type);
    if (e->type != NULL)
        return;
    *e = (gb_type_entry){
        .type = type,
        .name = index_for(type),
        /* A compact str is smaller than its type says. */
        .basicsize = (uint32_t)(type == &PyUnicode_Type ? (Py_ssize_t)sizeof(PyASCIIObject) : type->tp_basicsize),
        .offset = (uint32_t)gb_preheader_bytes(type->tp_flags),
    };
    building_count++;
    if (PyList_Append(queue, (PyObject *)type) < 0)
        PyErr_Clear();
}

static void
finish_walk(void)
{
    Py_CLEAR(queue);
    gb_lock();
    gb_type_entry *done = building;
    building = active;
    active = done;
    gb_unlock();
    gb_types_known = building_count;
    finished_at_ns = gb_monotonic_ns();
}

bool
gb_types_step(unsigned limit)
{
    if (names == NULL)
        return false;
    if (queue == NULL) {
        if (finished_at_ns != 0
            && gb_monotonic_ns() - finished_at_ns < (gb_types_missed ? REFRESH_UNKNOWN_NS : REFRESH_NS))
            return false;
        gb_types_missed = false;
        queue = PyList_New(0);
        if (queue == NULL) {
            PyErr_Clear();
            return false;
        }
        memset(building, 0, sizeof(sets[0]));
        building_count = 0;
        queue_at = 0;
        learn(&PyBaseObject_Type);
    }
    while (limit-- > 0 && queue_at < PyList_GET_SIZE(queue)) {
        PyObject *type = Py_NewRef(PyList_GET_ITEM(queue, queue_at));
        PyList_SetItem(queue, queue_at++, Py_NewRef(Py_None)); /* the walk keeps no class longer than it must */
        PyObject *children = PyObject_CallOneArg(subclasses, type);
        Py_DECREF(type);
        if (children == NULL) {
            PyErr_Clear();
            continue;
        }
        if (PyList_Check(children)) {
            for (Py_ssize_t i = 0; i < PyList_GET_SIZE(children); i++) {
                PyObject *child = PyList_GET_ITEM(children, i);
                if (PyType_Check(child))
                    learn((PyTypeObject *)child);
            }
        }
        Py_DECREF(children);
    }
    if (queue_at < PyList_GET_SIZE(queue))
        return true;
    finish_walk();
    return false;
}

/* In a forked child, or at a new start: begin a walk at once. */
void
gb_types_reset(void)
{
    finished_at_ns = 0;
}
