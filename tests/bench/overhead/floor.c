/* The floor under every allocation profiler: hooks on the OBJ and MEM domains that only call through.
 *
 * install(frees) hooks malloc and calloc, and with `frees` realloc and free too (what every peer does). loop() and
 * batch() are for tests/bench/alloc_micro.py: the price of one block, without an interpreter loop around it.
 * Not part of the product; compiled by the benchmark into a temporary directory. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <time.h>

#define DOMAINS 2
static const PyMemAllocatorDomain domains[DOMAINS] = {PYMEM_DOMAIN_OBJ, PYMEM_DOMAIN_MEM};
static PyMemAllocatorEx below[DOMAINS]; /* protected by the GIL, like the domains themselves */
static int is_installed;

static void *through_malloc(void *ctx, size_t size)
{
	PyMemAllocatorEx *next = ctx;
	return next->malloc(next->ctx, size);
}

static void *through_calloc(void *ctx, size_t count, size_t size)
{
	PyMemAllocatorEx *next = ctx;
	return next->calloc(next->ctx, count, size);
}

static void *through_realloc(void *ctx, void *block, size_t size)
{
	PyMemAllocatorEx *next = ctx;
	return next->realloc(next->ctx, block, size);
}

static void through_free(void *ctx, void *block)
{
	PyMemAllocatorEx *next = ctx;
	next->free(next->ctx, block);
}

static PyObject *install(PyObject *module, PyObject *frees)
{
	(void)module;
	int with_frees = PyObject_IsTrue(frees);
	if (with_frees < 0)
		return NULL;
	if (!is_installed) {
		for (int i = 0; i < DOMAINS; i++) {
			PyMem_GetAllocator(domains[i], &below[i]);
			/* Without frees the free and realloc pointers stay pymalloc's own, which needs its own context: pymalloc
			 * ignores it, so ours may stand there. */
			PyMemAllocatorEx hooks = {&below[i], through_malloc, through_calloc, below[i].realloc, below[i].free};
			if (with_frees) {
				hooks.realloc = through_realloc;
				hooks.free = through_free;
			}
			PyMem_SetAllocator(domains[i], &hooks);
		}
		is_installed = 1;
	}
	Py_RETURN_NONE;
}

static PyObject *removed(PyObject *module, PyObject *unused)
{
	(void)module, (void)unused;
	if (is_installed) {
		for (int i = 0; i < DOMAINS; i++)
			PyMem_SetAllocator(domains[i], &below[i]);
		is_installed = 0;
	}
	Py_RETURN_NONE;
}

static PyObject *installed(PyObject *module, PyObject *unused)
{
	(void)module, (void)unused;
	return PyBool_FromLong(is_installed);
}

/* CPU time of the process: foreign load on the core does not count, a thread of the sampler does. */
static double seconds(void)
{
	struct timespec now;
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
	return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static PyObject *loop(PyObject *module, PyObject *args)
{
	(void)module;
	Py_ssize_t count, size;
	if (!PyArg_ParseTuple(args, "nn", &count, &size))
		return NULL;
	double start = seconds();
	for (Py_ssize_t i = 0; i < count; i++) {
		void *block = PyObject_Malloc((size_t)size);
		if (block == NULL)
			return PyErr_NoMemory();
		*(volatile char *)block = (char)i; /* a block is written to; also keeps the pair from being optimised away */
		PyObject_Free(block);
	}
	return PyFloat_FromDouble((seconds() - start) * 1e9 / (double)count);
}

#define HELD 1024
static PyObject *batch(PyObject *module, PyObject *args)
{
	(void)module;
	Py_ssize_t count, size;
	if (!PyArg_ParseTuple(args, "nn", &count, &size))
		return NULL;
	static void *held[HELD]; /* protected by the GIL, which this never gives up */
	Py_ssize_t rounds = count / HELD > 0 ? count / HELD : 1;
	double start = seconds();
	for (Py_ssize_t round = 0; round < rounds; round++) {
		for (int i = 0; i < HELD; i++) {
			held[i] = PyObject_Malloc((size_t)size);
			if (held[i] == NULL) {
				while (i-- > 0)
					PyObject_Free(held[i]);
				return PyErr_NoMemory();
			}
			*(volatile char *)held[i] = (char)i;
		}
		for (int i = 0; i < HELD; i++)
			PyObject_Free(held[i]);
	}
	return PyFloat_FromDouble((seconds() - start) * 1e9 / (double)(rounds * HELD));
}

static PyMethodDef methods[] = {
	{"install", install, METH_O, "install(frees): hooks malloc and calloc, with frees also realloc and free"},
	{"remove", removed, METH_NOARGS, "remove(): puts the allocators found by install() back"},
	{"installed", installed, METH_NOARGS, "installed() -> bool"},
	{"loop", loop, METH_VARARGS, "loop(count, size) -> ns per malloc and free of one block at a time"},
	{"batch", batch, METH_VARARGS, "batch(count, size) -> ns per malloc and free, 1024 blocks held at a time"},
	{NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
	PyModuleDef_HEAD_INIT, "_floor", "Call-through allocation hooks", -1, methods, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__floor(void)
{
	return PyModule_Create(&definition);
}
