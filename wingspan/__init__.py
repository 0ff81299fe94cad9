"""Wingspan controls how wide a representation is."""
