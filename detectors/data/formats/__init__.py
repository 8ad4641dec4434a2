"""The formats of data sets, a module each: what a recipe says about it, and its files as labelled images. No torch."""
