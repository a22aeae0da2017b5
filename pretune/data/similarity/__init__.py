"""Duplicate and near-duplicate rows."""
