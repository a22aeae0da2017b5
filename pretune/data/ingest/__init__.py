"""Reads a source into a snapshot of clean rows."""
