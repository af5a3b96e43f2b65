"""Regime 4: a trained model learns a task, from labelled examples (type I) or from texts to write (type II)."""
