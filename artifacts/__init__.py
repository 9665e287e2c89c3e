"""How gates, bundles and tables are stored, found and registered: bytes and names, no maths.

`store` keeps artifact folders (on disk or in S3), `tables` keeps prompts, images and scores as Parquet,
`registry` keeps versions and aliases in MLflow, `hashing` gives everything its address.
"""
