"""Predictors of trained models. These files are saved with a model in MLflow and import nothing else of Pretune."""
