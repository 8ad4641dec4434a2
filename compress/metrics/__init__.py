"""Counts and measures of models and artifacts."""
