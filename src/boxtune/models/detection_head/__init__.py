"""A detection head beside the language model: boxes, objectness and labels of an image in one pass."""
