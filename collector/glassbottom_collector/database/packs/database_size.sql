-- Reads the directory of every database it may connect to: heavy where there are many files.
SELECT current_database()::text AS database, pg_database_size(current_database()) AS bytes
