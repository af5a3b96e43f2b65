"""The one loop that trains every model, its interface to objectives, logs, checkpoints, and metrics."""
