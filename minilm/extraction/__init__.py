"""Regime 3, feature extraction (extração de features): a frozen model, embeddings, a small classifier."""

from .features import embed
