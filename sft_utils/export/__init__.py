"""From an adapter to what is served: merge, check, other formats, servers, the model card."""
