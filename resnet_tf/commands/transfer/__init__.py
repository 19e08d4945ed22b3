"""Trainings of other tasks on the backbones, and other names for commands on their runs."""
