SELECT version() AS version, current_setting('server_version_num')::int AS number, pg_is_in_recovery() AS in_recovery,
       extract(epoch FROM clock_timestamp() - pg_postmaster_start_time())::float8 AS up_s
