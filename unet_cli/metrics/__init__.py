"""Metrics on arrays: overlap, surface distance, objects, membranes, ranking, calibration."""
