"""What answers are worth: strict JSON, failure classes, metrics, and their intervals."""
