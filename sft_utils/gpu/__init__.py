"""`make gpu-check`: what only a GPU can show, each arm in a process of its own."""
