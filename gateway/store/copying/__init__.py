"""Moving in: everything that an embedded store holds, waiting work included, into a PostgreSQL."""
