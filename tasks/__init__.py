"""Prefect tasks: load, call `cpe`, store, return an address. Tensors never travel between tasks."""
