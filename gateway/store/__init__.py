"""The only place that knows SQL: one protocol, a backend for each database."""
