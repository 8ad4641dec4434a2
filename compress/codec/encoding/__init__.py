"""From the bytes of a tensor to its codes: which digits, tables and classes take the fewest bits."""
