SELECT round(100.0 * blks_hit / nullif(blks_hit + blks_read, 0), 2)::float8 AS cache_hit_percent,
       numbackends AS connections, xact_commit AS commits, xact_rollback AS rollbacks, deadlocks, temp_files, temp_bytes,
       conflicts, extract(epoch FROM now() - stats_reset)::float8 AS counted_for_s
  FROM pg_stat_database WHERE datname = current_database()
