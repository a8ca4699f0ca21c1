"""How a network learns: a step, the loop, the schedule, the budget, batches that fit."""
