"""Sweeps detectron2's zoo: every config exported, compiled and held against PyTorch."""
