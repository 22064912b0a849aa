-- What sizes leaves out, with the size that the catalog remembers: no lock is asked for.
SELECT n.nspname::text AS schema, c.relname::text AS "table", c.reltuples::bigint AS rows_estimated,
       c.relpages::bigint * current_setting('block_size')::bigint AS heap_bytes_remembered,
       'locked exclusively (AccessExclusiveLock): skipped' AS skipped
  FROM pg_locks l JOIN pg_class c ON c.oid = l.relation JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE l.locktype = 'relation' AND l.mode = 'AccessExclusiveLock' AND l.granted AND c.relkind IN ('r', 'm', 'p')
   AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
 ORDER BY 1, 2
