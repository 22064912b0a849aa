-- One sample of what runs now.
SELECT pid, usename::text AS "user", application_name AS application, wait_event_type,
       extract(epoch FROM clock_timestamp() - query_start)::float8 AS running_s, left(query, 4096) AS query
  FROM pg_stat_activity
 WHERE state = 'active' AND backend_type = 'client backend' AND datname = current_database()
   AND application_name NOT LIKE 'glassbottom:%'
