"""How messages say what came from elsewhere; below `cpe` and `artifacts`, and knows neither."""
