/* dump_write.c: the file of a heap dump: records into a buffer, the buffer into the file, and the limits of both.
 *
 * What goes over the limit is not written at all, so the file is never larger than was allowed, and always ends with a whole
 * record as long as the disk takes it.
 */
#include "dump.h"

#ifdef GB_DUMP_POSSIBLE

#include <errno.h>
#include <string.h>
#include <unistd.h>

#define END_BYTES_MAX 80u

size_t
gb_varint(uint8_t *at, uint64_t value)
{
    size_t n = 0;
    while (value >= 0x80) {
        at[n++] = (uint8_t)(value | 0x80);
        value >>= 7;
    }
    at[n++] = (uint8_t)value;
    return n;
}

static void
write_out(const uint8_t *bytes, size_t count)
{
    gb_dump *d = gb_dump_now;
    d->writing = true; /* the alarm lets a slow disk be slow */
    while (count > 0) {
        ssize_t done = write(d->fd, bytes, count);
        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0) {
            atomic_store(&d->progress->error, done < 0 ? errno : EIO);
            d->stop = GB_DUMP_WRITE_FAILED;
            break;
        }
        bytes += done;
        count -= (size_t)done;
    }
    d->writing = false;
}

void
gb_dump_flush(void)
{
    gb_dump *d = gb_dump_now;
    /* Before the write, which may take long. */
    atomic_store_explicit(&d->progress->objects, d->objects, memory_order_relaxed);
    atomic_store_explicit(&d->progress->edges, d->edges, memory_order_relaxed);
    atomic_store_explicit(&d->progress->bytes, d->bytes_written, memory_order_relaxed);
    if (d->stop < GB_DUMP_WRITE_FAILED)
        write_out(d->out, d->out_used);
    d->out_used = 0;
}

static void
put(const uint8_t *bytes, size_t count)
{
    gb_dump *d = gb_dump_now;
    d->bytes_written += count;
    if (d->out_used + count > GB_DUMP_OUT_BYTES)
        gb_dump_flush();
    memcpy(d->out + d->out_used, bytes, count);
    d->out_used += count;
}

void
gb_dump_record(char tag, const uint8_t *head, size_t head_bytes, const uint8_t *tail, size_t tail_bytes)
{
    gb_dump *d = gb_dump_now;
    if (d->stop != GB_DUMP_COMPLETE)
        return;
    uint8_t start[11] = {(uint8_t)tag};
    size_t start_bytes = 1 + gb_varint(start + 1, head_bytes + tail_bytes);
    if (d->bytes_written + start_bytes + head_bytes + tail_bytes + END_BYTES_MAX > d->bytes_max) {
        d->stop = GB_DUMP_TOO_MANY_BYTES;
        return;
    }
    put(start, start_bytes);
    put(head, head_bytes);
    if (tail_bytes > 0)
        put(tail, tail_bytes);
}

void
gb_dump_end(void)
{
    gb_dump *d = gb_dump_now;
    if (d->stop < GB_DUMP_WRITE_FAILED) {
        uint64_t elapsed_us = (gb_monotonic_ns() - d->started_ns) / 1000;
        atomic_store(&d->progress->elapsed_us, elapsed_us);
        const uint64_t numbers[] = {d->objects, d->edges, (uint64_t)d->stop, elapsed_us, d->faults, d->lost};
        uint8_t payload[END_BYTES_MAX];
        size_t bytes = 0;
        for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
            bytes += gb_varint(payload + bytes, numbers[i]);
        uint8_t start[11] = {'Z'};
        put(start, 1 + gb_varint(start + 1, bytes));
        put(payload, bytes);
    }
    gb_dump_flush();
    atomic_store(&d->progress->faults, d->faults);
    atomic_store(&d->progress->lost, d->lost);
}

size_t
gb_dump_text(uint8_t *at, const char *text, size_t bytes)
{
    if (bytes > GB_DUMP_TEXT_BYTES_MAX)
        bytes = GB_DUMP_TEXT_BYTES_MAX;
    size_t n = gb_varint(at, bytes);
    memcpy(at + n, text, bytes);
    return n + bytes;
}

size_t
gb_dump_text_of(uint8_t *at, PyObject *text)
{
    if (text == NULL || !PyUnicode_CheckExact(text))
        return gb_dump_text(at, "", 0);
    const int kind = PyUnicode_KIND(text);
    const void *data = PyUnicode_DATA(text);
    char utf8[GB_DUMP_TEXT_BYTES_MAX];
    size_t n = 0;
    for (Py_ssize_t i = 0; i < PyUnicode_GET_LENGTH(text); i++) {
        Py_UCS4 c = PyUnicode_READ(kind, data, i);
        if (c >= 0xD800 && c <= 0xDFFF)
            c = '?'; /* half of a pair has no UTF-8 */
        size_t needed = c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
        if (n + needed > sizeof utf8)
            break;
        if (needed == 1) {
            utf8[n++] = (char)c;
            continue;
        }
        utf8[n++] = (char)((0xF00u >> needed & 0xFFu) | (c >> (6 * (needed - 1))));
        for (size_t left = needed - 1; left-- > 0;)
            utf8[n++] = (char)(0x80 | ((c >> (6 * left)) & 0x3F));
    }
    return gb_dump_text(at, utf8, n);
}

#endif
