"""Regime 1, pre-training: all weights drawn at random. A file an objective; `training/loop.py` trains."""
