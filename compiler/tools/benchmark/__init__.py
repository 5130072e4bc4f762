"""Measurements, each in a process of its own, so that peak memory is its own; times leave Python's imports out.

Rows of one table come from one run on one machine, in turn, and ratios are what to quote.
"""
