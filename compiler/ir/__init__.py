"""The graph that passes rewrite: reading, writing, text, traversal, folding, patterns."""
