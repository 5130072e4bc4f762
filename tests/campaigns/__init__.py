"""Campaigns against the product: files that nobody would write, and processes that end at the worst moment."""
