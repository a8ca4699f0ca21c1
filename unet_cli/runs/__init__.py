"""The training journey from a folder to a run: prepare, plan, train, resume, folds, compare, benchmarks."""
