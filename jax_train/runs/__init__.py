"""What lies in a run folder: config, checkpoints, metrics, results; and a trained run read back."""
