"""Code that is not ours to change: what the project's own classes must reproduce."""
