"""Sentence frames, one module for each schema."""
