SELECT DISTINCT ON (queryid) queryid AS query_id, left(query, 4096) AS query
  FROM {schema}.pg_stat_statements(true)
 WHERE queryid = ANY(%s) AND dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
