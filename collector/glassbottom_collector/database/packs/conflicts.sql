-- Reads on this replica that replay had to cancel.
SELECT confl_lock AS locks, confl_snapshot AS snapshots, confl_bufferpin AS pins, confl_deadlock AS deadlocks
  FROM pg_stat_database_conflicts WHERE datname = current_database()
