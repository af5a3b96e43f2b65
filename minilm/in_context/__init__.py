"""Regime 6, in-context "learning" (em contexto): examples in the prompt, no weight changes."""
