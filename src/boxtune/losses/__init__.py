"""One file a loss: pure functions of tensors that return a sum and a count."""
