"""Samples: where they are read from, how they are written, and the conversation that is made of each."""
