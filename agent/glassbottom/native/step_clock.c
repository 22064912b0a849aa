/* step_clock.c: CLOCK_MONOTONIC in a third of the time.
 *
 * Two readings of the clock are most of what watching a step costs: 28 ns each through the vDSO, 11 ns from the
 * processor's counter. The counter is used where the kernel itself keeps time by it and it runs at one speed whatever
 * the processor does. It is compared with CLOCK_MONOTONIC before the first use and then once a second, so the two are
 * never apart by more than the drift of a second; where they disagree by more than a clock can (a virtual machine moved
 * to another host, a laptop that slept) the counter is left alone, and after the third time for good.
 */
#include "steps.h"

#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/prctl.h>
#endif

#define LEARN_NS UINT64_C(200000000) /* 30 ns of error in each end of that are a third of a millionth */
#define FOLLOW_NS UINT64_C(1000000000)
#define APART_NS UINT64_C(50000) /* what a comparison may be off by, when it was interrupted */
#define APART_PARTS 2000u        /* and half a thousandth: no clock is corrected faster */
#define DOUBTS_MAX 3u

gb_step_clock_state gb_step_clock;

#if defined(__x86_64__)

static bool usable;
static unsigned doubts;

static bool
counter_is_steady(void)
{
    unsigned a, b, c, d;
    if (!__get_cpuid(0x80000007u, &a, &b, &c, &d) || (d & (1u << 8)) == 0)
        return false;
    int allowed = 0;
    if (prctl(PR_GET_TSC, &allowed, 0, 0, 0) != 0 || allowed != PR_TSC_ENABLE)
        return false;
    int fd = open("/sys/devices/system/clocksource/clocksource0/current_clocksource", O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    char name[32] = {0};
    ssize_t n = read(fd, name, sizeof name - 1);
    close(fd);
    return n > 0 && (strcmp(name, "tsc\n") == 0 || strcmp(name, "kvm-clock\n") == 0);
}

/* Both clocks at one moment: the closest of three attempts. */
static void
read_both(uint64_t *ticks, uint64_t *ns)
{
    uint64_t best = UINT64_MAX;
    *ticks = *ns = 0;
    for (int i = 0; i < 3; i++) {
        uint64_t before = __rdtsc();
        uint64_t now = gb_monotonic_ns();
        uint64_t width = __rdtsc() - before;
        if (width >= best)
            continue;
        best = width;
        *ticks = before + width / 2;
        *ns = now;
    }
}

static void
learn_from(uint64_t ticks, uint64_t ns)
{
    gb_step_clock.ticking = false;
    gb_step_clock.base_ticks = ticks;
    gb_step_clock.base_ns = ns;
}

void
gb_step_clock_start(void)
{
    if (gb_step_clock.ticking)
        return; /* learnt before, and compared again at its next use */
    usable = counter_is_steady();
    doubts = 0;
    uint64_t ticks, ns;
    read_both(&ticks, &ns);
    learn_from(ticks, ns);
}

uint64_t
gb_step_clock_follow(uint64_t *ticks)
{
    *ticks = 0;
    uint64_t now = gb_monotonic_ns();
    if (!usable || (!gb_step_clock.ticking && now - gb_step_clock.base_ns < LEARN_NS))
        return now;
    uint64_t at_ticks, at_ns;
    read_both(&at_ticks, &at_ns);
    uint64_t passed_ticks = at_ticks - gb_step_clock.base_ticks;
    uint64_t passed_ns = at_ns - gb_step_clock.base_ns;
    if ((int64_t)passed_ticks <= 0 || (int64_t)passed_ns <= 0) {
        /* Another processor is ahead by a little, right after a comparison; or the counter began anew. */
        if (gb_step_clock.ticking && (int64_t)passed_ticks > -1000000)
            return at_ns;
        usable = ++doubts < DOUBTS_MAX;
        learn_from(at_ticks, at_ns);
        return at_ns;
    }
    if (gb_step_clock.ticking) {
        uint64_t predicted = gb_ticks_to_ns(passed_ticks);
        uint64_t apart = predicted > passed_ns ? predicted - passed_ns : passed_ns - predicted;
        if (apart > APART_NS + passed_ns / APART_PARTS) {
            usable = ++doubts < DOUBTS_MAX;
            learn_from(at_ticks, at_ns);
            return at_ns;
        }
    }
    /* A comparison soon after the last would only add its own error. */
    if (passed_ns >= LEARN_NS) {
        gb_step_clock.rate = (uint64_t)(((unsigned __int128)passed_ns << 32) / passed_ticks);
        gb_step_clock.span_ticks = (uint64_t)((unsigned __int128)FOLLOW_NS * passed_ticks / passed_ns);
        gb_step_clock.base_ticks = at_ticks;
        gb_step_clock.base_ns = at_ns;
        gb_step_clock.ticking = true;
    }
    *ticks = at_ticks;
    return at_ns;
}

#else

void
gb_step_clock_start(void)
{
}

uint64_t
gb_step_clock_follow(uint64_t *ticks)
{
    *ticks = 0;
    return gb_monotonic_ns();
}

#endif
