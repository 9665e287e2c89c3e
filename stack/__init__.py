"""The local stack: Prefect, MLflow, an S3 store and a worker on this machine (`make up`, `down`, `status`)."""
