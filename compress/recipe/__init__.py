"""The recipe: from a YAML file to a checked plan, every mistake with its place."""
