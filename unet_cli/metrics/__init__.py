"""Numbers in, numbers out: overlap, borders, objects, membranes, ranking, calibration."""
