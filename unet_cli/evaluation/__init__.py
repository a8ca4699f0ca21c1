"""Predictions against truth over a data set: what was measured, and scores with intervals."""
