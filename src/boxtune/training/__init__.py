"""The run: trainer, schedule, callbacks, checkpoints."""
