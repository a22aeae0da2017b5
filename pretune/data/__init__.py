"""From a source to what training reads: ingest, prepare, loading."""
