/* memory.c: whose the resident memory is: what pymalloc and malloc have in use and keep free, and what is resident of
 * a range, such as a thread's stack.
 *
 * Neither allocator offers its numbers as such. pymalloc prints a report, which goes into memory here; where its
 * function is not to be found, or malloc is not glibc's, nothing is told.
 */
#include "core.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* ---- pymalloc ------------------------------------------------------------------------------------------------- */

typedef struct {
    int (*print)(FILE *);
    FILE *out;
} report;

static void
print_report(void *argument)
{
    report *r = argument;
    r->print(r->out);
}

/* Walks the head of every pool, so it takes some milliseconds per GiB, with the GIL. */
static PyObject *
memory_pymalloc(PyObject *self, PyObject *args)
{
    (void)self;
    (void)args;
    report r = {NULL, NULL};
    void *found = dlsym(RTLD_DEFAULT, "_PyObject_DebugMallocStats");
    memcpy(&r.print, &found, sizeof found);
    if (r.print == NULL)
        Py_RETURN_NONE;
    char *text = NULL;
    size_t length = 0;
    r.out = open_memstream(&text, &length);
    if (r.out == NULL)
        return PyErr_NoMemory();
    gb_without_small_hook_gil(print_report, &r);
    fclose(r.out);
    PyObject *result = PyUnicode_DecodeLatin1(text, (Py_ssize_t)length, NULL);
    free(text);
    return result;
}

/* ---- malloc --------------------------------------------------------------------------------------------------- */

/* struct mallinfo2, which headers before glibc 2.33 lack. */
typedef struct {
    size_t arena, ordblks, smblks, hblks, hblkhd, usmblks, fsmblks, uordblks, fordblks, keepcost;
} malloc_numbers;

/* Walks the free chunks of every arena under its lock, so without the GIL. */
static PyObject *
memory_malloc(PyObject *self, PyObject *args)
{
    (void)self;
    (void)args;
    malloc_numbers (*tell)(void) = NULL;
    void *found = dlsym(RTLD_DEFAULT, "mallinfo2");
    memcpy(&tell, &found, sizeof found);
    if (tell == NULL)
        Py_RETURN_NONE;
    malloc_numbers n;
    Py_BEGIN_ALLOW_THREADS
    n = tell();
    Py_END_ALLOW_THREADS
    return Py_BuildValue("(KKK)", (unsigned long long)(n.uordblks + n.hblkhd), (unsigned long long)n.fordblks,
                         (unsigned long long)n.hblkhd);
}

/* ---- ranges --------------------------------------------------------------------------------------------------- */

/* Pages of one range that are resident; 0 for what has been unmapped meanwhile. */
static size_t
pages_resident_nopy(uintptr_t start, uintptr_t end, size_t page)
{
    unsigned char pages[4096];
    size_t count = 0;
    while (start < end) {
        size_t length = end - start < sizeof pages * page ? end - start : sizeof pages * page;
        if (mincore((void *)start, length, pages) != 0)
            return count;
        for (size_t i = 0; i < (length + page - 1) / page; i++)
            count += pages[i] & 1;
        start += length;
    }
    return count;
}

static PyObject *
memory_resident(PyObject *self, PyObject *arg)
{
    (void)self;
    size_t page = (size_t)sysconf(_SC_PAGESIZE), count = 0;
    PyObject *ranges = PySequence_Fast(arg, "memory_resident() takes a list of pairs of addresses");
    if (ranges == NULL)
        return NULL;
    for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(ranges); i++) {
        PyObject *range = PySequence_Fast_GET_ITEM(ranges, i);
        unsigned long long start, end;
        if (!PyTuple_Check(range))
            PyErr_SetString(PyExc_TypeError, "memory_resident() takes a list of pairs of addresses");
        if (!PyTuple_Check(range) || !PyArg_ParseTuple(range, "KK", &start, &end)) {
            Py_DECREF(ranges);
            return NULL;
        }
        Py_BEGIN_ALLOW_THREADS
        count += pages_resident_nopy((uintptr_t)start, (uintptr_t)end, page);
        Py_END_ALLOW_THREADS
    }
    Py_DECREF(ranges);
    return PyLong_FromUnsignedLongLong((unsigned long long)count * page);
}

/* ---- what Python has from malloc ------------------------------------------------------------------------------- */

static PyObject *
memory_large(PyObject *self, PyObject *args)
{
    (void)self;
    (void)args;
    if (!gb_large_known || !atomic_load(&gb_sampling))
        Py_RETURN_NONE;
    return Py_BuildValue("(dd)", gb_large_bytes, gb_large_variance);
}

PyMethodDef gb_memory_methods[] = {
    {"memory_pymalloc", memory_pymalloc, METH_NOARGS, NULL},
    {"memory_malloc", memory_malloc, METH_NOARGS, NULL},
    {"memory_resident", memory_resident, METH_O, NULL},
    {"memory_large", memory_large, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};
