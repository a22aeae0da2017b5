-- Run once, when the database server first starts: of deploy/compose.yaml, and here.
CREATE DATABASE mlflow;
CREATE DATABASE mlflow_auth;
CREATE DATABASE prefect;
