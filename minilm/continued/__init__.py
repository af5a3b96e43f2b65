"""Regime 2, continued training (treinamento continuado): a model goes on learning, on text of a domain."""
