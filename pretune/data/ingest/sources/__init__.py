"""Sources of rows: one module per kind of source, each yields records."""
