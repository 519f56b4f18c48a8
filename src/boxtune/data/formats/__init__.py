"""One reader a format; each turns files into records with boxes in pixels."""
