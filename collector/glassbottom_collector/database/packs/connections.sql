SELECT datname::text AS database, usename::text AS "user", application_name AS application, state,
       wait_event_type, wait_event, count(*) AS connections,
       max(extract(epoch FROM now() - state_change))::float8 AS oldest_s,
       current_setting('max_connections')::int AS connections_max
  FROM pg_stat_activity WHERE backend_type = 'client backend' AND application_name NOT LIKE 'glassbottom:%'
 GROUP BY 1, 2, 3, 4, 5, 6 ORDER BY connections DESC
