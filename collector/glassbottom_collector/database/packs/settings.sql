-- What differs from the default, without those that may hold a secret or an address.
SELECT name, setting, unit, source, pending_restart FROM pg_settings
 WHERE (source NOT IN ('default', 'client', 'session', 'override') AND name !~ 'conninfo|command|password|passphrase|_file$')
    OR name IN ('max_connections', 'shared_buffers', 'work_mem', 'hot_standby_feedback', 'max_standby_streaming_delay',
                'autovacuum', 'track_io_timing', 'log_min_duration_statement', 'random_page_cost', 'jit')
 ORDER BY name
