"""Scores over features: each is pure, and returns its value with its interval, count and unit."""
