"""The training commands of segmentation and detection, and aliases of other commands for their runs."""
