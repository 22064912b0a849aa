SELECT schemaname::text AS schema, relname::text AS "table", n_live_tup AS rows_live, n_dead_tup AS rows_dead,
       n_mod_since_analyze AS rows_changed_since_analyze,
       extract(epoch FROM now() - greatest(last_vacuum, last_autovacuum))::float8 AS vacuumed_ago_s,
       extract(epoch FROM now() - greatest(last_analyze, last_autoanalyze))::float8 AS analyzed_ago_s
  FROM pg_stat_user_tables ORDER BY n_dead_tup DESC
