"""Load, quantise, guard; then generate, free or inside a schema."""
