-- One UTC day, by the time of the data. Everything but code and types is here, so a day can be read, set aside or
-- deleted without the others. A file of an older version gets the tables it lacks by running this again.

CREATE TABLE IF NOT EXISTS schema (
    version INTEGER NOT NULL
);

-- Processes with data on this day; repeated when they change.
CREATE TABLE IF NOT EXISTS process (
    instance_id VARCHAR NOT NULL,
    service VARCHAR NOT NULL,
    pid UINTEGER NOT NULL,
    started_at_ns BIGINT NOT NULL,
    attributes VARCHAR NOT NULL, -- JSON object
    agent_version VARCHAR NOT NULL
);

-- One row per batch, in the transaction of its rows. max(seq) of a session and stream is its high-water mark.
CREATE TABLE IF NOT EXISTS batch (
    batch BIGINT NOT NULL, -- 1, 2, 3, … within this file, in order of commit
    session_id VARCHAR NOT NULL,
    stream UTINYINT NOT NULL,
    seq UBIGINT NOT NULL,
    instance_id VARCHAR NOT NULL,
    at_ns BIGINT NOT NULL
);

-- Heads of heap snapshots; site_rows and type_rows tell how much a reader is about to load.
CREATE TABLE IF NOT EXISTS heap_snapshot (
    batch BIGINT NOT NULL,
    instance_id VARCHAR NOT NULL,
    at_ns BIGINT NOT NULL,
    epoch UINTEGER NOT NULL,
    complete BOOLEAN NOT NULL,
    interval_bytes DOUBLE NOT NULL,
    window_share DOUBLE NOT NULL,
    live_bytes DOUBLE NOT NULL,
    live_bytes_variance DOUBLE NOT NULL,
    site_rows UINTEGER NOT NULL,
    type_rows UINTEGER NOT NULL
);

-- Names of snapshots.
CREATE TABLE IF NOT EXISTS heap_label (
    batch BIGINT NOT NULL,
    label VARCHAR NOT NULL
);

CREATE TABLE IF NOT EXISTS heap_site (
    batch BIGINT NOT NULL,
    stack UBIGINT NOT NULL,
    live_bytes DOUBLE NOT NULL,
    live_bytes_variance DOUBLE NOT NULL,
    live_objects DOUBLE NOT NULL,
    live_objects_variance DOUBLE NOT NULL,
    alloc_bytes DOUBLE NOT NULL,
    alloc_objects DOUBLE NOT NULL,
    samples UINTEGER NOT NULL,
    birth_oldest_ms BIGINT NOT NULL,
    birth_mean_ms BIGINT NOT NULL,
    birth_minutes UINTEGER NOT NULL
);

CREATE TABLE IF NOT EXISTS heap_type (
    batch BIGINT NOT NULL,
    stack UBIGINT NOT NULL,
    type UBIGINT NOT NULL,
    live_bytes DOUBLE NOT NULL,
    live_objects DOUBLE NOT NULL,
    samples UINTEGER NOT NULL
);

CREATE TABLE IF NOT EXISTS metric (
    batch BIGINT NOT NULL,
    name VARCHAR NOT NULL,
    attributes VARCHAR NOT NULL, -- JSON object, keys sorted
    value DOUBLE NOT NULL
);

-- Intervals of operations; rows tells how much a reader is about to load.
CREATE TABLE IF NOT EXISTS operation_interval (
    batch BIGINT NOT NULL,
    instance_id VARCHAR NOT NULL,
    from_ns BIGINT NOT NULL,
    to_ns BIGINT NOT NULL,
    rows UINTEGER NOT NULL
);

-- What ended alike in an interval. kind: number of the wire's OperationKind. count: how many. scale, zero_count, buckets:
-- their OpenTelemetry exponential histogram of seconds; buckets are 32-bit words as histograms.py describes them.
CREATE TABLE IF NOT EXISTS operation (
    batch BIGINT NOT NULL,
    kind UTINYINT NOT NULL,
    name VARCHAR NOT NULL,
    span_kind VARCHAR NOT NULL,
    status VARCHAR NOT NULL,
    frame UBIGINT NOT NULL,
    route VARCHAR NOT NULL,
    target VARCHAR NOT NULL,
    count UBIGINT NOT NULL,
    scale TINYINT NOT NULL,
    zero_count UBIGINT NOT NULL,
    buckets BLOB NOT NULL,
    sum_s DOUBLE NOT NULL,
    min_s DOUBLE NOT NULL,
    max_s DOUBLE NOT NULL,
    self_s DOUBLE NOT NULL,
    cpu_user_s DOUBLE NOT NULL,
    cpu_system_s DOUBLE NOT NULL,
    cpu_count UBIGINT NOT NULL,
    busy_s DOUBLE NOT NULL,
    alloc_bytes DOUBLE NOT NULL,
    bare_yields UBIGINT NOT NULL
);

-- Looks at the tasks of a process.
CREATE TABLE IF NOT EXISTS task_snapshot (
    batch BIGINT NOT NULL,
    instance_id VARCHAR NOT NULL,
    at_ns BIGINT NOT NULL,
    tasks UINTEGER NOT NULL,
    tasks_examined UINTEGER NOT NULL
);

-- place: 0, 1, 2, … in the snapshot, what others refer to. scale to max_s: how late timers fired, as in operation.
CREATE TABLE IF NOT EXISTS task_loop (
    batch BIGINT NOT NULL,
    place UINTEGER NOT NULL,
    id UBIGINT NOT NULL,
    thread VARCHAR NOT NULL,
    implementation VARCHAR NOT NULL,
    scale TINYINT NOT NULL,
    zero_count UBIGINT NOT NULL,
    buckets BLOB NOT NULL,
    sum_s DOUBLE NOT NULL,
    min_s DOUBLE NOT NULL,
    max_s DOUBLE NOT NULL,
    ready INTEGER NOT NULL,
    ready_max INTEGER NOT NULL,
    tasks UINTEGER NOT NULL
);

-- path: frame ids as little-endian 64-bit words, from the innermost await out.
CREATE TABLE IF NOT EXISTS task_group (
    batch BIGINT NOT NULL,
    place UINTEGER NOT NULL,
    loop UINTEGER NOT NULL,
    path BLOB NOT NULL,
    state VARCHAR NOT NULL,
    awaits VARCHAR NOT NULL,
    count UINTEGER NOT NULL,
    age_oldest_s DOUBLE NOT NULL,
    age_mean_s DOUBLE NOT NULL,
    wait_longest_s DOUBLE NOT NULL,
    steps UBIGINT NOT NULL,
    busy_s DOUBLE NOT NULL,
    bare_yields UBIGINT NOT NULL,
    task_name VARCHAR NOT NULL
);

CREATE TABLE IF NOT EXISTS task_edge (
    batch BIGINT NOT NULL,
    waiter UINTEGER NOT NULL,
    awaited UINTEGER NOT NULL,
    count UINTEGER NOT NULL
);

-- Intervals in which threads were sampled.
CREATE TABLE IF NOT EXISTS profile_interval (
    batch BIGINT NOT NULL,
    instance_id VARCHAR NOT NULL,
    from_ns BIGINT NOT NULL,
    to_ns BIGINT NOT NULL,
    ticks UBIGINT NOT NULL,
    dropped UBIGINT NOT NULL
);

CREATE TABLE IF NOT EXISTS profile_sample (
    batch BIGINT NOT NULL,
    stack UBIGINT NOT NULL,
    thread VARCHAR NOT NULL,
    task VARCHAR NOT NULL,
    samples UINTEGER NOT NULL,
    wall_s DOUBLE NOT NULL,
    cpu_s DOUBLE NOT NULL
);

-- at_ns: when it began, which may be days before the batch that tells it.
CREATE TABLE IF NOT EXISTS observation (
    batch BIGINT NOT NULL,
    at_ns BIGINT NOT NULL,
    kind VARCHAR NOT NULL,
    name VARCHAR NOT NULL,
    frame UBIGINT NOT NULL,
    stack UBIGINT NOT NULL,
    value DOUBLE NOT NULL,
    count UBIGINT NOT NULL,
    attributes VARCHAR NOT NULL -- JSON object, keys sorted
);
