"""Notebooks executed, repeated, compared and published; never imports torch."""
