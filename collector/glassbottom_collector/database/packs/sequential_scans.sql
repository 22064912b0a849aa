SELECT schemaname::text AS schema, relname::text AS "table", seq_scan AS scans, seq_tup_read AS rows_read,
       idx_scan AS index_scans, n_live_tup AS rows_live
  FROM pg_stat_user_tables
 WHERE seq_scan > 0 AND n_live_tup > 10000 AND seq_tup_read / seq_scan > 0.5 * n_live_tup
 ORDER BY seq_tup_read DESC
