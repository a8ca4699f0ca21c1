"""Evaluation of predictions against ground truth over a data set: measurements, and scores with confidence
intervals."""
