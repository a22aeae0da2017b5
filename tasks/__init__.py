"""One file per stage of dvc.yaml: plain functions, without Prefect."""
