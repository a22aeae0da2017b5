"""A stack for a team as plain processes: PostgreSQL, an S3 store, MLflow, Prefect and a worker."""
