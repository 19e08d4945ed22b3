"""Many trainings from one file: a grid, and the sweep that runs it."""
