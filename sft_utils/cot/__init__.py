"""Chain of thought: problems, traces and their checks, answers, programs of models in a cage."""
