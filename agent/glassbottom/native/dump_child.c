/* dump_child.c: what the copy of the process does to itself before it reads anything, and the way through what it writes.
 *
 * It must be no burden and nobody's business: every descriptor but the file's is closed, so that whoever talks to the
 * application sees its connections end when they do; no handler of the application's runs in it; it yields the processor and
 * is the first to go when memory is short; and it ends with the thread that made it.
 *
 * The types' own code reads the objects, and some of it may be wrong, or wait for a lock that nobody will let go of any more. A
 * fault, or a second without progress, leads back here: that object is written without references, none of its type is
 * looked into again, and the dump goes on. Nothing can be left inconsistent by that: nobody else lives in this copy.
 */
#define Py_BUILD_CORE 1
#include "dump.h"

#ifdef GB_DUMP_POSSIBLE

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-parameter"
#pragma GCC diagnostic ignored "-Wsign-compare"
#include <internal/pycore_gc.h>
#pragma GCC diagnostic pop

#define NICE_BY 10
#define IO_PRIORITY_LOWEST ((2 << 13) | 7) /* best effort, class 7 */
#define DESCRIPTORS_MAX (1u << 20)
#define CPU_SECONDS_MORE 30
#define FLAG_BITS ((uintptr_t)3)
#define FAULTS_OF_ONE_OBJECT 2
#define SMAPS_BYTES 4096

enum { BACK_FAULT = 1, BACK_HANGS = 2 };

static void
write_small_file(const char *path, const char *text)
{
    const int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd >= 0) {
        ssize_t done = write(fd, text, strlen(text));
        (void)done;
        close(fd);
    }
}

static void
close_all_but(int kept)
{
    bool done = true;
#ifdef SYS_close_range
    if (kept > 0)
        done = syscall(SYS_close_range, 0u, (unsigned)kept - 1, 0u) == 0;
    done = done && syscall(SYS_close_range, (unsigned)kept + 1, ~0u, 0u) == 0;
#else
    done = false;
#endif
    if (done)
        return;
    struct rlimit limit;
    const unsigned end = getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < DESCRIPTORS_MAX
                             ? (unsigned)limit.rlim_cur
                             : DESCRIPTORS_MAX;
    for (unsigned fd = 0; fd < end; fd++) {
        if ((int)fd != kept)
            close((int)fd);
    }
}

static void
on_fault(int number)
{
    if (gb_dump_now->can_go_back)
        siglongjmp(gb_dump_now->back, BACK_FAULT);
    signal(number, SIG_DFL); /* and the instruction faults again */
}

static void
on_alarm(int number)
{
    (void)number;
    gb_dump *d = gb_dump_now;
    const bool hangs = d->steps == d->steps_at_alarm;
    d->steps_at_alarm = d->steps;
    if (hangs && d->can_go_back && !d->writing)
        siglongjmp(d->back, BACK_HANGS);
}

static void
take_signals(void)
{
    static const int fatal[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL};
    struct sigaction action = {.sa_handler = SIG_IGN};
    sigemptyset(&action.sa_mask);
    for (int number = 1; number < NSIG; number++) {
        /* Whoever ends the group ends this too. SIGABRT stays: to change it, the library may wait for a lock. */
        if (number == SIGABRT || number == SIGKILL || number == SIGSTOP)
            continue;
        action.sa_handler = number == SIGTERM || number == SIGINT || number == SIGXCPU ? SIG_DFL : SIG_IGN;
        sigaction(number, &action, NULL);
    }
    action.sa_flags = SA_NODEFER;
    action.sa_handler = on_fault;
    for (size_t i = 0; i < sizeof fatal / sizeof *fatal; i++)
        sigaction(fatal[i], &action, NULL);
    action.sa_handler = on_alarm;
    sigaction(SIGALRM, &action, NULL);
    const struct itimerval every_second = {{1, 0}, {1, 0}};
    setitimer(ITIMER_REAL, &every_second, NULL);
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
}

static void
settle(pid_t parent)
{
    gb_dump *d = gb_dump_now;
    prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    if (getppid() != parent)
        _exit(0); /* it ended before it could be asked to tell */
    prctl(PR_SET_NAME, "gb-heap-dump", 0, 0, 0);
    close_all_but(d->fd);
    write_small_file("/proc/self/oom_score_adj", "1000"); /* while the file is still ours to write */
    const struct rlimit no_core = {0, 0};
    setrlimit(RLIMIT_CORE, &no_core);
    prctl(PR_SET_DUMPABLE, 0, 0, 0, 0); /* a core would go to a program of the system's */
    const uint64_t seconds = (d->ends_ns - d->started_ns) / 1000000000u + CPU_SECONDS_MORE;
    struct rlimit cpu;
    if (getrlimit(RLIMIT_CPU, &cpu) == 0 && (cpu.rlim_max == RLIM_INFINITY || cpu.rlim_max > seconds)) {
        cpu.rlim_cur = seconds;
        setrlimit(RLIMIT_CPU, &cpu);
    }
    setpriority(PRIO_PROCESS, 0, getpriority(PRIO_PROCESS, 0) + NICE_BY);
    syscall(SYS_ioprio_set, 1, 0, IO_PRIORITY_LOWEST);
    take_signals();
}

/* ---- the way through -------------------------------------------------------------------------------------------- */

static PyGC_Head *
after(const PyGC_Head *head)
{
    return (PyGC_Head *)(head->_gc_next & ~FLAG_BITS);
}

/* Notes what went wrong, and that the type is not to be looked into; to be called where the way back leads. */
static void
note_fault(int why)
{
    gb_dump *d = gb_dump_now;
    (void)why;
    d->can_go_back = false;
    if (d->looking_at > 0)
        d->type[d->looking_at - 1].broken = true;
    d->looking_at = 0;
    d->depth = 0;
    d->targets_used = 0;
    if (++d->faults >= GB_DUMP_FAULTS_MAX && d->stop == GB_DUMP_COMPLETE)
        d->stop = GB_DUMP_TOO_MANY_FAULTS;
}

static void
write_list(uintptr_t address)
{
    gb_dump *d = gb_dump_now;
    PyGC_Head *const list = (PyGC_Head *)address;
    PyGC_Head *volatile at = list;
    volatile int faults = 0;
    const int back = sigsetjmp(d->back, 0);
    if (back != 0) {
        note_fault(back);
        if (++faults >= FAULTS_OF_ONE_OBJECT) {
            faults = 0;
            if (at == list)
                return;
            at = after(at); /* the second time without an object of a type that is not looked into: it cannot be read */
        }
        if (at == list)
            return;
    } else {
        d->can_go_back = true;
        at = after(list);
    }
    d->can_go_back = true;
    while (at != list && d->stop == GB_DUMP_COMPLETE) {
        gb_dump_object((PyObject *)((PyGC_Head *)at + 1));
        gb_dump_pending();
        d->steps++;
        faults = 0;
        at = after(at);
    }
    d->can_go_back = false;
}

static void
write_roots(void)
{
    gb_dump *d = gb_dump_now;
    if (sigsetjmp(d->back, 0) == 0) {
        d->can_go_back = true;
        gb_dump_roots();
    } else {
        note_fault(BACK_FAULT);
    }
    d->can_go_back = false;
}

/* Memory that is this copy's alone: what either of the two has written to since. */
static uint64_t
dirtied_kib(void)
{
    char text[SMAPS_BYTES + 1];
    const int fd = open("/proc/self/smaps_rollup", O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    size_t used = 0;
    for (ssize_t got; used < SMAPS_BYTES && (got = read(fd, text + used, SMAPS_BYTES - used)) != 0;) {
        if (got > 0)
            used += (size_t)got;
        else if (errno != EINTR)
            break;
    }
    close(fd);
    text[used] = '\0';
    const char *at = strstr(text, "Private_Dirty:");
    if (at == NULL)
        return 0;
    uint64_t kib = 0;
    for (at += strlen("Private_Dirty:"); *at == ' '; at++)
        ;
    for (; *at >= '0' && *at <= '9'; at++)
        kib = kib * 10 + (uint64_t)(*at - '0');
    return kib;
}

_Noreturn void
gb_dump_child(pid_t parent)
{
    gb_dump *d = gb_dump_now;
    settle(parent);
    write_roots();
    for (unsigned i = 0; i < GB_DUMP_LISTS_MAX; i++) {
        if (d->lists[i] != 0)
            write_list(d->lists[i]);
    }
    gb_dump_end();
    atomic_store(&d->progress->dirtied_kib, dirtied_kib());
    _exit(d->stop < GB_DUMP_WRITE_FAILED ? d->stop : GB_DUMP_WRITE_FAILED);
}

#endif
