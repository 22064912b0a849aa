SELECT pid, datname::text AS database, usename::text AS "user", application_name AS application, state,
       wait_event_type, wait_event, extract(epoch FROM now() - xact_start)::float8 AS transaction_s,
       extract(epoch FROM now() - query_start)::float8 AS statement_s, age(backend_xmin) AS xmin_age,
       left(query, 2000) AS query
  FROM pg_stat_activity
 WHERE xact_start IS NOT NULL AND backend_type = 'client backend' AND application_name NOT LIKE 'glassbottom:%'
 ORDER BY xact_start
