-- From the catalog alone: right on a replica as well. A DELETE of a parent reads the whole child without such an index.
SELECT n.nspname::text AS schema, t.relname::text AS "table", c.conname::text AS "constraint",
       array_agg(a.attname::text ORDER BY k.ord) AS columns, t.reltuples::bigint AS rows_estimated
  FROM pg_constraint c JOIN pg_class t ON t.oid = c.conrelid JOIN pg_namespace n ON n.oid = t.relnamespace
 CROSS JOIN LATERAL unnest(c.conkey) WITH ORDINALITY k(attnum, ord)
  JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = k.attnum
 WHERE c.contype = 'f' AND NOT EXISTS (
   SELECT FROM pg_index i WHERE i.indrelid = c.conrelid AND i.indisvalid AND i.indpred IS NULL
      AND (i.indkey::int2[])[0:cardinality(c.conkey) - 1] @> c.conkey)
 GROUP BY 1, 2, 3, 5 ORDER BY 5 DESC
