"""Prefect and orchestration: in which order stages run, in which processes, under which flow run."""
