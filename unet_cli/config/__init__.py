"""Settings by journey: data, model, hardware, training, prediction, evaluation; `base` is what they share."""
