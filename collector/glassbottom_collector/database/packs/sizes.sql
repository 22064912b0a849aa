-- Locked relations are left out: the size functions would wait for the lock. See sizes_locked.
WITH locked AS MATERIALIZED (
  SELECT l.relation FROM pg_locks l
   WHERE l.locktype = 'relation' AND l.mode = 'AccessExclusiveLock' AND l.granted
     AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())),
held AS MATERIALIZED (
  SELECT relation FROM locked
  UNION SELECT i.indrelid FROM pg_index i JOIN locked ON locked.relation = i.indexrelid
  UNION SELECT c.oid FROM pg_class c JOIN locked ON locked.relation = c.reltoastrelid),
largest AS MATERIALIZED (
  SELECT c.oid, n.nspname, c.relname, c.relkind, c.reltuples, c.relpages, c.relfrozenxid
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
   WHERE c.relkind IN ('r', 'm', 'p') AND n.nspname NOT IN ('pg_catalog', 'information_schema')
     AND n.nspname !~ '^pg_(toast|temp)' AND c.oid NOT IN (SELECT relation FROM held)
   ORDER BY c.relpages DESC LIMIT 200)
SELECT nspname::text AS schema, relname::text AS "table", relkind::text AS kind, reltuples::bigint AS rows_estimated,
       pg_relation_size(oid) AS heap_bytes, pg_indexes_size(oid) AS index_bytes,
       pg_total_relation_size(oid) AS total_bytes,
       CASE WHEN relfrozenxid <> '0' THEN age(relfrozenxid) END AS xid_age
  FROM largest ORDER BY total_bytes DESC
