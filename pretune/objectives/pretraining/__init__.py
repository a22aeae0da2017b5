"""Objectives that learn from unlabelled rows."""
