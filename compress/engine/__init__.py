"""Running a recipe: keys, cache, children, the other ranks."""
