"""Weights of detectors, for every plug-in: find the file, read its tensors, load them strictly, freeze or cut some."""
