"""Regime 1, pre-training: all weights from zero. One file an objective; `training/loop.py` is their loop."""
