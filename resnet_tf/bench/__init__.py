"""Benchmarks of speed beside peers: training, input, building, evaluation and inference."""
