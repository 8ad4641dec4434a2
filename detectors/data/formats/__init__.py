"""Formats of data sets, one a module; `data.format` of a recipe names them."""
