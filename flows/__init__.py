"""Prefect and the command line: everything that orchestrates, nothing that computes."""
