"""A trained model on the hub: which files go there, the card that tells of it, and the upload."""
