"""DOTA-format folders: reading, checking, loading, scoring, and synthetic scenes that need no download.

`dota` and `synthetic` import without torch; `loader` needs it.
"""
