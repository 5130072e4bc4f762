"""Calibration: streaming statistics of activations, their files, and the scales that follow from them."""
