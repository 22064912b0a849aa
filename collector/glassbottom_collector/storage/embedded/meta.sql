-- What is shared by all days: the identity of the store, and code and types by content hash.
-- Written in a transaction of its own before the rows that refer to it; an entry nothing refers to is harmless.

-- One row. id is told to agents; when it changes they send their definitions again.
CREATE TABLE IF NOT EXISTS store (
    id VARCHAR NOT NULL,
    schema_version INTEGER NOT NULL,
    created_at_ns BIGINT NOT NULL
);

CREATE TABLE IF NOT EXISTS frame (
    id UBIGINT PRIMARY KEY,
    function VARCHAR NOT NULL,
    file VARCHAR NOT NULL,
    line UINTEGER NOT NULL
);

-- frames: ids as little-endian 64-bit words, innermost first. label: the route that was served, or empty.
CREATE TABLE IF NOT EXISTS stack (
    id UBIGINT PRIMARY KEY,
    frames BLOB NOT NULL,
    truncated BOOLEAN NOT NULL,
    label VARCHAR DEFAULT ''
);

CREATE TABLE IF NOT EXISTS type (
    id UBIGINT PRIMARY KEY,
    name VARCHAR NOT NULL
);

-- A file of version 1 has no labels.
ALTER TABLE stack ADD COLUMN IF NOT EXISTS label VARCHAR DEFAULT '';
