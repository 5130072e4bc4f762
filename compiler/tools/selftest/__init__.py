"""Tests this machine: golden detectors are built, run, held against PyTorch's answers and timed, on every target here."""
