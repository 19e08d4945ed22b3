"""Optimisation: one step, the engine that runs it, where its batches come from, and the loop around it."""
