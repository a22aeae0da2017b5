"""From a source to a snapshot of clean rows."""
