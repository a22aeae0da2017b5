"""Data: ingest, prepare, loading."""
