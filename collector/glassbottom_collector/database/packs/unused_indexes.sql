-- Size from the catalog's memory: the index may be locked.
SELECT s.schemaname::text AS schema, s.relname::text AS "table", s.indexrelname::text AS "index", s.idx_scan AS scans,
       c.relpages::bigint * current_setting('block_size')::bigint AS bytes_remembered
  FROM pg_stat_user_indexes s JOIN pg_index i USING (indexrelid) JOIN pg_class c ON c.oid = s.indexrelid
 WHERE s.idx_scan = 0 AND NOT i.indisunique AND i.indisvalid ORDER BY bytes_remembered DESC
