"""How trained models answer. These files travel with a model to MLflow and import nothing else of Pretune."""
