"""Removing channels (structured) and single weights (unstructured)."""
