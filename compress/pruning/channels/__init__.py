"""Follows every channel of a network through one forward pass: which live, move and must go together."""
