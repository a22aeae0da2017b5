"""One file per stage of dvc.yaml: plain functions that know nothing of Prefect."""
