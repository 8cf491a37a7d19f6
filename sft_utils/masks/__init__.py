"""From a conversation to ids and labels: templates, the oracle of what is trained, collation."""
