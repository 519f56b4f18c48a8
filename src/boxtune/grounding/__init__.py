"""Boxes ⇄ text, by the convention of each model family. No torch in here."""
