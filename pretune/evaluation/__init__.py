"""Metrics with intervals, and baselines."""
