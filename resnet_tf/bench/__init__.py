"""Speed beside peers: training, input, building, evaluation and inference, each in one run."""
