"""Finds duplicate and near-duplicate rows."""
