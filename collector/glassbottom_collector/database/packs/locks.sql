-- Only of sessions that wait: pg_blocking_pids() stops the lock manager for a moment.
WITH waiting AS MATERIALIZED (
  SELECT pid, pg_blocking_pids(pid) AS blocked_by FROM pg_stat_activity
   WHERE wait_event_type = 'Lock' AND datname = current_database() LIMIT 200)
SELECT a.pid, coalesce(w.blocked_by, '{}') AS blocked_by, a.datname::text AS database, a.usename::text AS "user",
       a.application_name AS application, a.state, a.wait_event_type, a.wait_event,
       extract(epoch FROM now() - a.xact_start)::float8 AS transaction_s, left(a.query, 2000) AS query
  FROM pg_stat_activity a LEFT JOIN waiting w USING (pid)
 WHERE a.pid IN (SELECT pid FROM waiting) OR a.pid IN (SELECT unnest(blocked_by) FROM waiting)
 ORDER BY a.pid
