"""Regime 1, pre-training: all weights from zero. One file an objective; `minilm.training` is their loop."""
