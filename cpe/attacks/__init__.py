"""Ways of getting back what was erased."""
