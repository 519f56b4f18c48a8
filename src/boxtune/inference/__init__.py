"""From images to boxes with scores."""
