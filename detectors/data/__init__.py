"""Labelled boxes: formats of data sets, checking, loading, scoring, and synthetic scenes that need no download.

`boxes.BoxDataset` keeps the contract of `compress/dataset.py`; a module in `formats` adds how its files are read.
Only `augmentation` and `loader` import torch.
"""
