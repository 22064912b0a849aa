-- What is shared by all days: the identity of the store, and code and types by content hash.
-- Written in a transaction of its own before the rows that refer to it; an entry nothing refers to is harmless.

-- One row. id is told to agents; when it changes they send their definitions again.
CREATE TABLE store (
    id VARCHAR NOT NULL,
    schema_version INTEGER NOT NULL,
    created_at_ns BIGINT NOT NULL
);

CREATE TABLE frame (
    id UBIGINT PRIMARY KEY,
    function VARCHAR NOT NULL,
    file VARCHAR NOT NULL,
    line UINTEGER NOT NULL
);

-- frames: ids as little-endian 64-bit words, innermost first.
CREATE TABLE stack (
    id UBIGINT PRIMARY KEY,
    frames BLOB NOT NULL,
    truncated BOOLEAN NOT NULL
);

CREATE TABLE type (
    id UBIGINT PRIMARY KEY,
    name VARCHAR NOT NULL
);
