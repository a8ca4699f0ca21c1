"""Training runs: prepare, plan, train, save, resume; cross-validation, comparison of networks, benchmarks."""
