"""Evaluation of trained networks: scores on a split, comparison of runs, and pictures of both."""
