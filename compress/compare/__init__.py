"""Runs, reports and model files side by side: what differs, how sure that is, and whether a limit is kept."""
