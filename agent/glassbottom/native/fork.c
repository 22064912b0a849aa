/* fork.c: what a forked child must forget.
 *
 * The child has the parent's memory but none of its threads: the schedule's thread is gone, and the spin lock may have
 * been held. prepare takes the lock so that the tables are whole at the fork; other libraries' handlers that run between
 * ours, in this same thread, pass it. The child then clears them, for its heap
 * is a new one to whoever reads it, and stays passive until start() is called again there. Code objects stay
 * referenced: they are the child's own copies, and dropping a reference here is not safe.
 */
#include "core.h"

#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

static void
before_fork(void)
{
    gb_hooks_before_fork();
    gb_lock();
    gb_tls.forking = true;
}

static void
after_in_parent(void)
{
    gb_tls.forking = false;
    gb_unlock();
    gb_hooks_after_fork_parent();
}

static void
after_in_child(void)
{
    atomic_store(&gb_sampling, false);
    gb_epoch++;
    if (gb_live.slots != NULL) {
        /* Private anonymous pages: dropping them zeroes the tables without copying one page of the parent's. */
        if (madvise(gb_live.slots, GB_TABLE_SLOTS * sizeof(gb_sample), MADV_DONTNEED) == 0)
            gb_live.live = 0;
        gb_table_clear_locked();
        gb_stacks_clear_locked(&gb_stacks);
    }
    gb_live.taken = gb_live.dropped = gb_live.thinnings = 0;
    gb_stacks.truncated = gb_stacks.overflowed = 0;
    /* Not the parent's random numbers again. */
    gb_seed(gb_monotonic_ns() ^ (uint64_t)getpid() << 40);
    gb_hooks_after_fork_child();
    gb_windows_after_fork_child();
    gb_types_reset();
    gb_snapshot_after_fork_child();
    gb_threads_after_fork_child();
    gb_watchdog_after_fork_child();
    gb_steps_after_fork_child();
    gb_tls.forking = false;
    gb_lock_reset();
}

int
gb_fork_install(void)
{
    static bool installed;
    if (installed)
        return 0;
    if (pthread_atfork(before_fork, after_in_parent, after_in_child) != 0) {
        PyErr_SetString(PyExc_RuntimeError,
                        "pthread_atfork failed: not enough memory for the sampler's fork handlers.");
        return -1;
    }
    installed = true;
    return 0;
}
