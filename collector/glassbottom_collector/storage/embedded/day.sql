-- One UTC day, by the time of the data. Everything but code and types is here, so a day can be read, set aside or
-- deleted without the others.

CREATE TABLE schema (
    version INTEGER NOT NULL
);

-- Processes with data on this day; repeated when they change.
CREATE TABLE process (
    instance_id VARCHAR NOT NULL,
    service VARCHAR NOT NULL,
    pid UINTEGER NOT NULL,
    started_at_ns BIGINT NOT NULL,
    attributes VARCHAR NOT NULL, -- JSON object
    agent_version VARCHAR NOT NULL
);

-- One row per batch, in the transaction of its rows. max(seq) of a session and stream is its high-water mark.
CREATE TABLE batch (
    batch BIGINT NOT NULL, -- 1, 2, 3, … within this file, in order of commit
    session_id VARCHAR NOT NULL,
    stream UTINYINT NOT NULL,
    seq UBIGINT NOT NULL,
    instance_id VARCHAR NOT NULL,
    at_ns BIGINT NOT NULL
);

-- Heads of heap snapshots; site_rows and type_rows tell how much a reader is about to load.
CREATE TABLE heap_snapshot (
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

CREATE TABLE heap_site (
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

CREATE TABLE heap_type (
    batch BIGINT NOT NULL,
    stack UBIGINT NOT NULL,
    type UBIGINT NOT NULL,
    live_bytes DOUBLE NOT NULL,
    live_objects DOUBLE NOT NULL,
    samples UINTEGER NOT NULL
);

CREATE TABLE metric (
    batch BIGINT NOT NULL,
    name VARCHAR NOT NULL,
    attributes VARCHAR NOT NULL, -- JSON object, keys sorted
    value DOUBLE NOT NULL
);
