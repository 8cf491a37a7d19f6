"""Helpers shared by the SFT notebooks. Import the module you need; nothing happens at import."""

__version__ = "0.1.0"
