"""What MLflow records of runs; the only package that imports mlflow."""
