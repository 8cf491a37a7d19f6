"""A training run: memory it needs, how it is loaded, gated, resumed and promoted; DPO pairs."""
