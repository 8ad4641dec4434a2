"""DCFL: one-stage detector of oriented tiny objects, as a Krimp plug-in (see README.md)."""
