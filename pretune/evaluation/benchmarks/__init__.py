"""Benchmarks: tasks of lm-evaluation-harness (the extra `lm-eval`), with the result of each sample."""
