"""Runs a compilation from a file to a build folder."""
