"""Records as they stand on disk: load, check against the schema, write."""
