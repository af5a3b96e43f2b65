"""Equality with other implementations. A package, because its files are named like those of `tests`."""
