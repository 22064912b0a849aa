SELECT dealloc AS evictions, extract(epoch FROM now() - stats_reset)::float8 AS counted_for_s
  FROM {schema}.pg_stat_statements_info
