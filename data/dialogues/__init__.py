"""Dialogues under a system prompt with checkable rules, and the grammar that writes them."""
