/* dump.c: the Python face of the heap dump. Makes the copy of the process that writes it, waits for it, ends it.
 *
 * The copy is made by the system call itself, not by fork(): no handler that a library registered for forks runs, no lock is
 * taken, and no SIGCHLD is sent when it ends, so nobody who waits for children of the application's ever hears of it. The
 * application stands still for that call only, in which the kernel copies the tables of its memory and not the memory.
 *
 * One dump at a time.
 */
#define Py_BUILD_CORE 1
#include "dump.h"

#ifdef GB_DUMP_POSSIBLE

#include <errno.h>
#include <math.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-parameter"
#pragma GCC diagnostic ignored "-Wsign-compare"
#include <internal/pycore_gc.h>
#include <internal/pycore_interp.h>
#pragma GCC diagnostic pop

#define MAGIC "GBHEAP1\n"
#define FLAG_BITS ((uintptr_t)3)
#define GENERATIONS 3u
#define SECONDS_MAX 86400.0
#define LOOK_AGAIN_MS 10

gb_dump *gb_dump_now;

static struct {
    pid_t owner; /* who made it: a fork of the application's has made none */
    pid_t child; /* 0: none runs */
    gb_dump_progress *progress;
} running;

/* ---- where the collector's lists begin -------------------------------------------------------------------------- */

static bool
read_head(uintptr_t address, PyGC_Head *out)
{
    struct iovec local = {out, sizeof *out}, remote = {(void *)address, sizeof *out};
    return process_vm_readv(getpid(), &local, 1, &remote, 1, 0) == (ssize_t)sizeof *out;
}

/* Whether a list begins there: its neighbours know it. Never faults. */
static bool
is_list(uintptr_t address)
{
    PyGC_Head head, next, previous;
    return read_head(address, &head) && read_head(head._gc_next & ~FLAG_BITS, &next)
           && read_head(head._gc_prev & ~FLAG_BITS, &previous) && (next._gc_prev & ~FLAG_BITS) == address
           && (previous._gc_next & ~FLAG_BITS) == address;
}

/* A new object comes last in the youngest list, so what follows it is where that list begins. The others lie behind it in the same
 * array, and the list of what gc.freeze() set aside after that. Each is checked: were a build of Python different, this says
 * so. */
static bool
find_lists(uintptr_t lists[GB_DUMP_LISTS_MAX])
{
    PyObject *probe = PyList_New(0);
    if (probe == NULL)
        return false;
    const uintptr_t youngest = ((PyGC_Head *)probe - 1)->_gc_next & ~FLAG_BITS;
    bool found = youngest != 0;
    for (unsigned i = 0; i < GENERATIONS && found; i++) {
        lists[i] = youngest + i * sizeof(struct gc_generation);
        found = is_list(lists[i]);
    }
    const uintptr_t frozen = youngest + GENERATIONS * sizeof(struct gc_generation);
    lists[GENERATIONS] = !found                             ? 0
                         : is_list(frozen)                  ? frozen
                         : is_list(frozen + sizeof(void *)) ? frozen + sizeof(void *)
                                                            : 0;
    Py_DECREF(probe);
    return found && lists[GENERATIONS] != 0;
}

static const char *
refusal(void)
{
    static char reason[128];
    uintptr_t lists[GB_DUMP_LISTS_MAX];
    if (PyInterpreterState_Get() != PyInterpreterState_Main())
        return "A heap dump is made from the main interpreter; this is another one.";
    PyGC_Head head;
    if (!read_head((uintptr_t)&head, &head)) {
        snprintf(reason, sizeof reason,
                 "This process may not read itself (%s); a seccomp profile that allows process_vm_readv would let it.",
                 strerror(errno));
        return reason;
    }
    if (!find_lists(lists)) {
        PyErr_Clear();
        return "The collector of this build of Python keeps its objects where this version of glassbottom does not find them.";
    }
    return NULL;
}

/* ---- starting --------------------------------------------------------------------------------------------------- */

static bool
is_running(void)
{
    return running.child != 0 && running.owner == getpid();
}

static bool
write_start(int fd, const char *info, size_t info_bytes, uint64_t *written)
{
    uint8_t start[sizeof MAGIC + 11];
    memcpy(start, MAGIC, sizeof MAGIC - 1);
    size_t n = sizeof MAGIC - 1;
    start[n++] = 'I';
    for (size_t left = info_bytes;; left >>= 7) {
        start[n++] = (uint8_t)(left >= 0x80 ? left | 0x80 : left);
        if (left < 0x80)
            break;
    }
    *written = n + info_bytes;
    struct iovec parts[] = {{start, n}, {(void *)(uintptr_t)info, info_bytes}};
    ssize_t done;
    Py_BEGIN_ALLOW_THREADS
    done = writev(fd, parts, 2);
    Py_END_ALLOW_THREADS
    if (done >= 0 && (size_t)done < *written)
        errno = ENOSPC;
    return done >= 0 && (size_t)done == *written;
}

/* The system call alone. Every signal waits meanwhile, so that no handler of the application's runs in the copy. */
static pid_t
make_copy(uint64_t *pause_ns)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    const pid_t parent = getpid();
    const uint64_t from = gb_monotonic_ns();
    const long child = syscall(SYS_clone, 0ul, NULL, NULL, NULL, 0ul);
    if (child == 0)
        gb_dump_child(parent);
    const int error = errno;
    *pause_ns = gb_monotonic_ns() - from;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    errno = error;
    return (pid_t)child;
}

static PyObject *
dump_start(PyObject *self, PyObject *args, PyObject *keywords)
{
    (void)self;
    static char *names[] = {"fd", "info", "bytes_max", "seconds_max", NULL};
    int fd;
    const char *info;
    Py_ssize_t info_bytes;
    long long bytes_max;
    double seconds_max;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "iy#$Ld", names, &fd, &info, &info_bytes, &bytes_max,
                                     &seconds_max))
        return NULL;
    if (fd < 0 || bytes_max <= 0 || !(seconds_max > 0))
        return PyErr_Format(PyExc_ValueError, "A heap dump needs a descriptor, and limits above 0.");
    const char *why_not = refusal();
    if (why_not != NULL)
        return PyErr_Format(PyExc_RuntimeError, "%s", why_not);
    if (is_running())
        return PyErr_Format(PyExc_RuntimeError, "Another heap dump of this process is being written; wait for it.");
    if (running.owner != getpid()) { /* what a parent had is still mapped, and shared with it */
        void *page = mmap(NULL, sizeof(gb_dump_progress), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        if (page == MAP_FAILED)
            return PyErr_SetFromErrno(PyExc_OSError);
        running.progress = page;
        running.owner = getpid();
        running.child = 0;
    }
    memset(running.progress, 0, sizeof *running.progress);
    uint64_t written;
    if (!write_start(fd, info, (size_t)info_bytes, &written))
        return PyErr_SetFromErrno(PyExc_OSError);
    gb_dump *d = mmap(NULL, sizeof *d, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (d == MAP_FAILED)
        return PyErr_SetFromErrno(PyExc_OSError);
    madvise(d, sizeof *d, MADV_NOHUGEPAGE);
    d->progress = running.progress;
    d->fd = fd;
    d->bytes_max = (uint64_t)bytes_max;
    d->bytes_written = written;
    PyObject *result = NULL;
    if (!find_lists(d->lists)) { /* a collection may have begun since */
        PyErr_Format(PyExc_BlockingIOError, "A garbage collection is under way; a heap dump begins after it.");
        goto end;
    }
    /* From here to the copy no object is made: that could begin a collection. */
    d->interp = PyInterpreterState_Main();
    d->threads = PyInterpreterState_ThreadHead(d->interp);
    if (d->interp->gc.collecting) {
        PyErr_Format(PyExc_BlockingIOError, "A garbage collection is under way; a heap dump begins after it.");
        goto end;
    }
    d->started_ns = gb_monotonic_ns();
    d->ends_ns = d->started_ns + (uint64_t)(fmin(seconds_max, SECONDS_MAX) * 1e9);
    gb_dump_now = d;
    uint64_t pause_ns;
    const pid_t child = make_copy(&pause_ns);
    gb_dump_now = NULL;
    if (child < 0) {
        PyErr_SetFromErrno(PyExc_OSError);
        goto end;
    }
    running.child = child;
    result = Py_BuildValue("(lK)", (long)child, (unsigned long long)pause_ns);
end:
    munmap(d, sizeof *d);
    return result;
}

/* ---- waiting ---------------------------------------------------------------------------------------------------- */

/* Until it ended or the time is over. */
static void
wait_for_end(pid_t child, int timeout_ms)
{
    int fd = -1;
#ifdef SYS_pidfd_open
    fd = (int)syscall(SYS_pidfd_open, child, 0u);
#endif
    if (fd >= 0) {
        struct pollfd ended = {fd, POLLIN, 0};
        poll(&ended, 1, timeout_ms);
        close(fd);
    } else {
        const int step_ms = timeout_ms < LOOK_AGAIN_MS ? timeout_ms : LOOK_AGAIN_MS;
        nanosleep(&(struct timespec){0, step_ms * 1000000l}, NULL);
    }
}

static PyObject *
dump_wait(PyObject *self, PyObject *args)
{
    (void)self;
    long pid;
    double timeout_s;
    if (!PyArg_ParseTuple(args, "ld", &pid, &timeout_s))
        return NULL;
    if (!is_running() || running.child != (pid_t)pid)
        return PyErr_Format(PyExc_ValueError, "No heap dump of that process id is being written.");
    const uint64_t until = gb_monotonic_ns() + (uint64_t)(fmin(fmax(timeout_s, 0.0), SECONDS_MAX) * 1e9);
    int status = 0;
    pid_t done;
    int error;
    Py_BEGIN_ALLOW_THREADS
    for (;;) {
        done = waitpid((pid_t)pid, &status, WNOHANG | __WALL);
        error = errno;
        const uint64_t now = gb_monotonic_ns();
        if (done != 0 || now >= until)
            break;
        wait_for_end((pid_t)pid, (int)((until - now) / 1000000u) + 1);
    }
    Py_END_ALLOW_THREADS
    if (done == 0)
        Py_RETURN_NONE;
    if (done < 0 && error == EINTR)
        Py_RETURN_NONE;
    running.child = 0;
    if (done < 0)
        return PyErr_Format(PyExc_OSError, "Somebody else waited for the process that wrote a heap dump (%s).",
                            strerror(error));
    return PyLong_FromLong(WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status));
}

static PyObject *
dump_kill(PyObject *self, PyObject *argument)
{
    (void)self;
    const long pid = PyLong_AsLong(argument);
    if (pid == -1 && PyErr_Occurred())
        return NULL;
    if (is_running() && running.child == (pid_t)pid) /* not waited for yet, so the number is still its own */
        kill((pid_t)pid, SIGKILL);
    Py_RETURN_NONE;
}

static PyObject *
dump_progress(PyObject *self, PyObject *args)
{
    (void)self;
    (void)args;
    static const gb_dump_progress none;
    const gb_dump_progress *p = running.progress != NULL && running.owner == getpid() ? running.progress : &none;
    const struct {
        const char *name;
        const _Atomic uint64_t *value;
    } parts[] = {{"objects", &p->objects},      {"edges", &p->edges}, {"bytes", &p->bytes},
                 {"faults", &p->faults},        {"lost", &p->lost},   {"dirtied_kib", &p->dirtied_kib},
                 {"elapsed_us", &p->elapsed_us}};
    PyObject *result = PyDict_New();
    for (size_t i = 0; result != NULL && i < sizeof parts / sizeof *parts; i++) {
        PyObject *value = PyLong_FromUnsignedLongLong((unsigned long long)atomic_load(parts[i].value));
        if (value == NULL || PyDict_SetItemString(result, parts[i].name, value) < 0)
            Py_CLEAR(result);
        Py_XDECREF(value);
    }
    PyObject *error = result == NULL ? NULL : PyLong_FromLong(atomic_load(&p->error));
    if (error == NULL || PyDict_SetItemString(result, "errno", error) < 0)
        Py_CLEAR(result);
    Py_XDECREF(error);
    return result;
}

static PyObject *
dump_refusal(PyObject *self, PyObject *args)
{
    (void)self;
    (void)args;
    const char *why_not = refusal();
    return why_not == NULL ? Py_NewRef(Py_None) : PyUnicode_FromString(why_not);
}

#else

static PyObject *
dump_refusal(PyObject *self, PyObject *args)
{
    (void)self;
    (void)args;
#ifdef GB_UNSUPPORTED
    return PyUnicode_FromString("A heap dump is made on CPython 3.11 to 3.14 with a GIL; this is another Python.");
#else
    return PyUnicode_FromString(
        "A heap dump is made on Linux, where a process can be copied without stopping; this is another system.");
#endif
}

static PyObject *
refuse(PyObject *self, PyObject *args)
{
    PyObject *why_not = dump_refusal(self, args);
    if (why_not != NULL)
        PyErr_SetObject(PyExc_RuntimeError, why_not);
    Py_XDECREF(why_not);
    return NULL;
}

static PyObject *
dump_start(PyObject *self, PyObject *args, PyObject *keywords)
{
    (void)keywords;
    return refuse(self, args);
}

#define dump_wait refuse
#define dump_kill refuse
#define dump_progress refuse

#endif

PyMethodDef gb_dump_methods[] = {
    {"dump_refusal", dump_refusal, METH_NOARGS, NULL},
    {"dump_start", (PyCFunction)(void (*)(void))dump_start, METH_VARARGS | METH_KEYWORDS, NULL},
    {"dump_wait", dump_wait, METH_VARARGS, NULL},
    {"dump_kill", dump_kill, METH_O, NULL},
    {"dump_progress", dump_progress, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};
