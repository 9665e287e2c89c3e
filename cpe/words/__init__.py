"""Word vectors: the shipped table, and the neighbours it gives."""
