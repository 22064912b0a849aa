SELECT datname::text AS database, age(datfrozenxid) AS xid_age, mxid_age(datminmxid) AS multixact_age
  FROM pg_database WHERE datallowconn ORDER BY xid_age DESC
