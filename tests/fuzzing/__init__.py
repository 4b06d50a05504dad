"""Damaged files for every reader and loader: see ``fuzzing.run``."""
