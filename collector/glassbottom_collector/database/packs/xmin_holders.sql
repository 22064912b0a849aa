-- Everything that keeps vacuum from removing dead rows.
SELECT 'backend' AS source, pid::text AS id, age(backend_xmin) AS xmin_age, state FROM pg_stat_activity
 WHERE backend_xmin IS NOT NULL AND pid <> pg_backend_pid()
UNION ALL SELECT 'slot', slot_name::text, age(xmin), CASE WHEN active THEN 'active' ELSE 'inactive' END
  FROM pg_replication_slots WHERE xmin IS NOT NULL
UNION ALL SELECT 'prepared', gid, age(transaction), 'prepared' FROM pg_prepared_xacts
 ORDER BY xmin_age DESC
