"""The embedded world: a grammar of everyday stories with exact probabilities, labels and translations."""
