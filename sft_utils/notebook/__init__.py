"""Sources and notebooks: their text, their dependencies, their parameters, generated tables."""
