"""Regime 1, pre-training: weights begin at random. A file for each objective; `training/loop.py` trains."""
