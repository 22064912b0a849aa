SELECT slot_name::text AS slot, active, wal_status,
       pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::bigint AS kept_bytes
  FROM pg_replication_slots ORDER BY 1
