"""Objectives that learn from labelled rows."""
