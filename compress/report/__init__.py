"""The report: one JSON document, and markdown, a page, charts and pictures made from it."""
