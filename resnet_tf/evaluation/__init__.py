"""What a trained network is worth: scores on a split, every example once."""
