"""Figures one can trust."""
