"""From samples to one batch of tensors: tokens, labels, padding or packing."""
