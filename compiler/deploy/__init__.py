"""Hands a build over to the programs that serve it: a model repository for Triton, and what its clients need."""
