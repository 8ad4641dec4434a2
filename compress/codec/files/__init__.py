"""Whole files: the networks that are packed, the .krimp files, and what people do with them."""
