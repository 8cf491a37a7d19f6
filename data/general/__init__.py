"""Items that measure general ability; see README.md."""
