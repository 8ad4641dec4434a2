"""The loops over values and bits, once in NumPy and once in numba, behind one contract; `choice` picks one of them."""
