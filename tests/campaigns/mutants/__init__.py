"""Kinds of changes that a graph can get: those that may alter its answers, and those that do not."""
