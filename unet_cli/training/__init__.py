"""Training: the optimizer step, the epoch loop, learning rate schedules, the time budget, the batch size search."""
