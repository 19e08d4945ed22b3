"""Networks in use: export and prediction, with the view of evaluation."""
