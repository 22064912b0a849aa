-- pg_dump takes a lock on every table, for which it needs SELECT.
SELECT n.nspname::text AS schema, c.relname::text AS "table"
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p') AND n.nspname NOT IN ('pg_catalog', 'information_schema')
   AND n.nspname !~ '^pg_(toast|temp)' AND NOT has_table_privilege(c.oid, 'SELECT')
 ORDER BY 1, 2
