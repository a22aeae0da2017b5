"""Records of runs in MLflow. The only package that imports mlflow."""
