"""What fine-tuning must not cost: lm-eval on tasks of this project, perplexity, format bleed."""
