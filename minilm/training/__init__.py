"""The one loop that trains every model, what it asks of an objective, and what figures count."""
