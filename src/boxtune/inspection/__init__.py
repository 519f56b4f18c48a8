"""What is there, before anything is trained."""
