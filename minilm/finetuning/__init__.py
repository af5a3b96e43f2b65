"""Regime 4: a pre-trained model learns a task, with a head (type I) or as text to text (type II)."""
