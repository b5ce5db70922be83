"""Videos and files on disk."""
