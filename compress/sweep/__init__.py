"""Search a recipe: which values of its fields give the best files, on one machine or many."""
