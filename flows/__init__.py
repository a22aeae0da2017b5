"""Prefect and orchestration: the order of stages, their processes, and the flow run."""
