-- Numbers without texts: (false) does not read the file of texts.
SELECT userid::bigint AS user_id, queryid AS query_id, true AS top_level, calls, total_exec_time AS total_ms, rows,
       shared_blks_hit AS blocks_hit, shared_blks_read AS blocks_read, temp_blks_written AS temp_blocks_written,
       blk_read_time + blk_write_time AS io_ms
  FROM {schema}.pg_stat_statements(false)
 WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database()) AND queryid IS NOT NULL
