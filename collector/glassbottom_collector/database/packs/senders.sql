SELECT application_name AS application, state, sync_state,
       pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn)::bigint AS behind_bytes,
       extract(epoch FROM replay_lag)::float8 AS replay_lag_s
  FROM pg_stat_replication ORDER BY 1
