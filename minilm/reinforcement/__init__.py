"""Regime 5, learning from preferences: a reward model, then PPO, and DPO as the contrast."""
