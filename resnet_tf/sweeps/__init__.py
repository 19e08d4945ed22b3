"""Many trainings from one grid file, and the sweep that runs them."""
