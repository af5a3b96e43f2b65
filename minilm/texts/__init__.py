"""The user's files: texts, tables of labels, pairs of languages, and the corpus made of them."""
