"""A database with every kind of reference and constraint, in whose rows canaries sit, and what is made of it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from glassbottom_collector.database import programs
from glassbottom_collector.sample import Sample, SampleSettings, take
from glassbottom_collector.sample.load import LoadReport, load

from tests.support.postgres import Cluster, Node

KEY = b"the key of a bundle, 32 bytes or"
ROWS = 200  # of customers; twice as many orders

# Text that must not come out: in every column below that can hold one, and in names of keys of JSON.
CANARY = "canary"
CARD = "4111111111111111"
MAIL_AT = "corp.canary.de"

SCHEMA = """
CREATE EXTENSION citext;
CREATE EXTENSION hstore;
CREATE TYPE mood AS ENUM ('fine', 'bad');
CREATE TYPE pair AS (one text, two text);
CREATE DOMAIN postcode AS varchar(10) CHECK (VALUE ~ '^[1-9][0-9]{4}$');
CREATE TABLE countries (code char(2) PRIMARY KEY, title text NOT NULL);
CREATE TABLE tenants (id int PRIMARY KEY, name text NOT NULL UNIQUE);
CREATE TABLE customers (
  tenant_id int NOT NULL REFERENCES tenants, id bigint GENERATED ALWAYS AS IDENTITY,
  country char(2) REFERENCES countries,
  email citext NOT NULL, handle varchar(14) CHECK (handle ~ '^[a-z][a-z0-9]*$'), phone text, card text, card_no bigint,
  zip postcode, state mood NOT NULL DEFAULT 'fine',
  plan text NOT NULL DEFAULT 'free' CHECK (plan IN ('free', 'paid')), born date, ip inet,
  profile jsonb, raw json, tags text[], scores int[], photo bytea, uid uuid NOT NULL, bio text, doc xml,
  search tsvector,
  facts hstore, couple pair, place point, during daterange, mac macaddr, seen_at timestamptz, favourite bigint,
  active boolean, balance numeric(10,2) CHECK (balance >= 0), password text,
  mail_key text GENERATED ALWAYS AS (lower(email::text)) STORED,
  PRIMARY KEY (tenant_id, id), UNIQUE (email), CHECK (char_length(bio) >= 3), CHECK (char_length(mail_key) > 3));
CREATE UNIQUE INDEX ON customers (mail_key);
CREATE UNIQUE INDEX ON customers (lower(handle)) WHERE active;
CREATE TABLE staff (id smallint PRIMARY KEY, boss smallint REFERENCES staff, pin char(4) UNIQUE);
CREATE TABLE orders (
  id bigserial PRIMARY KEY, tenant_id int NOT NULL, customer_id bigint, parent_id bigint REFERENCES orders,
  staff_id smallint REFERENCES staff, created_at timestamptz NOT NULL, shipped_at timestamptz, note text,
  ref varchar(8) UNIQUE, FOREIGN KEY (tenant_id, customer_id) REFERENCES customers, CHECK (shipped_at >= created_at));
CREATE INDEX ON orders (created_at);
ALTER TABLE customers ADD FOREIGN KEY (favourite) REFERENCES orders DEFERRABLE INITIALLY DEFERRED;
CREATE TABLE likes (customer_mail citext REFERENCES customers (email), order_text text, at timestamp,
  CHECK (at >= '2026-01-01'));
CREATE TABLE events (id int, at date NOT NULL, what text, kind text, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
CREATE TABLE events_1 PARTITION OF events FOR VALUES FROM ('2026-01-01') TO ('2026-06-01');
CREATE TABLE events_2 PARTITION OF events FOR VALUES FROM ('2026-06-01') TO ('2027-01-01');
CREATE VIEW recent AS SELECT * FROM orders;
CREATE MATERIALIZED VIEW counted AS SELECT count(*) FROM orders;
CREATE FUNCTION no_more() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE 'refused'; END$$;
CREATE TRIGGER refuse BEFORE INSERT ON likes FOR EACH ROW EXECUTE FUNCTION no_more();
ALTER TABLE likes DISABLE TRIGGER refuse;
"""
# The SQL of a number in a text, for values that are all different; i is the number of the row.
FILL = f"""
INSERT INTO countries SELECT chr(65 + i / 26) || chr(65 + i % 26), 'canary land ' || i FROM generate_series(0, 59) i;
INSERT INTO tenants SELECT i, 'canary tenant ' || i FROM generate_series(1, 20) i;
INSERT INTO customers (tenant_id, country, email, handle, phone, card, card_no, zip, plan, born, ip, profile, raw, tags,
  scores, photo, uid, bio, doc, search, facts, couple, place, during, mac, seen_at, active, balance, password)
SELECT 1 + i % 20, CASE WHEN i % 5 > 0 THEN chr(65 + i % 60 / 26) || chr(65 + i % 60 % 26) END,
  'Canary' || i || '@{MAIL_AT}', 'canary' || i, '+49 30 ' || 9876000 + i, '{CARD}', {CARD}, 10000 + i,
  CASE WHEN i % 3 = 0 THEN 'paid' ELSE 'free' END, '1980-01-01'::date + i, ('10.77.' || i % 4 || '.' || i)::inet,
  jsonb_build_object('city', 'canary ' || i, 'n', 7654321 + i, 'canary' || i, 1, 'api_key', 'canary-' || i, 'list',
    jsonb_build_array('canary', i, 'canary' || i || '@{MAIL_AT}', NULL, true)),
  json_build_object('canary', 'canary'), ARRAY['canary ' || i, 'x,"canary', NULL], ARRAY[7654321 + i, NULL],
  convert_to('canary' || i, 'UTF8'), md5(i::text)::uuid,
  CASE WHEN i % 4 > 0 THEN 'I am canary number ' || i || ', and this is the long story of my life, my phone is +49 30 '
    || 9876000 + i || '; nobody else may read it' END,
  ('<a>canary' || i || '</a>')::xml, to_tsvector('canary' || i), hstore('canary', 'canary' || i),
  ROW('canary', 'canary')::pair, point(52.5, i), daterange('2026-01-01', '2026-01-01'::date + i), '08:00:2b:01:02:03',
  '2026-03-01'::timestamptz + i * interval '1 hour', i % 2 = 0, i, 'canary-password-' || i
FROM generate_series(1, {ROWS}) i;
INSERT INTO staff SELECT i, CASE WHEN i = 5 THEN 5 ELSE nullif(i / 2, 0) END, lpad((i * 7)::text, 4, '0')
FROM generate_series(1, 60) i;
INSERT INTO orders (tenant_id, customer_id, parent_id, staff_id, created_at, shipped_at, note, ref)
SELECT c.tenant_id, CASE WHEN i % 7 > 0 THEN c.id END, CASE WHEN i > 100 THEN i - 100 END, 1 + i % 60,
  '2026-01-01'::timestamptz + i * interval '1 min', CASE WHEN i % 3 > 0 THEN '2026-06-01'::timestamptz END,
  E'canary, "note"\\n' || i, 'R-' || i
FROM generate_series(1, {2 * ROWS}) i JOIN customers c ON c.id = 1 + (i * 37) % {ROWS} ORDER BY i;
UPDATE customers SET favourite = id * 2 WHERE id % 3 = 0;
INSERT INTO likes SELECT email, favourite::text, '2026-01-01'::timestamp + id * interval '1 s' FROM customers;
INSERT INTO events SELECT i, '2026-01-01'::date + i % 300, 'canary ' || i, '' FROM generate_series(1, 400) i;
ANALYZE;
"""
SETTINGS = SampleSettings(rows_per_table=40, allow=["events.kind"], references=["likes.order_text -> orders.id"])


def sample(node: Node, database: str, settings: SampleSettings = SETTINGS, key: bytes = KEY) -> Sample:
    """Of a database, over a connection of its own."""
    with node.connect(database) as connection:
        return take(connection, settings, key)


def dump(node: Node, database: str, section: str) -> str:
    """A section of pg_dump."""
    program = str(programs.find("pg_dump"))
    arguments = [f"--section={section}", "--no-owner", "--no-privileges", "-d", node.conninfo(database)]
    return subprocess.run([program, *arguments], capture_output=True, text=True, check=True).stdout


@contextmanager
def loaded(cluster: Cluster, database: str, taken: Sample) -> Iterator[tuple[str, LoadReport]]:
    """The name of a new database with the schema of this one and the rows of a sample, and how it went."""
    with cluster.database() as name:
        # Nobody waits for the replica of the mirror.
        with cluster.primary.connect(name) as connection:
            connection.execute("SET synchronous_commit = off")
            parts = [dump(cluster.standby, database, section) for section in ("pre-data", "post-data")]
            report = load(connection, parts[0], parts[1], taken.files, taken.references)
        yield name, report
