"""Regime 1, pre-training from random weights. Each objective has its own file; `training/loop.py` trains."""
