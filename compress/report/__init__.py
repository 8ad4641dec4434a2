"""The report: one JSON document, and markdown, charts and pictures made from it."""
