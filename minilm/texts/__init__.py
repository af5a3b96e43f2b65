"""The user's files: texts, labelled tables, translation pairs, and the corpus made of them."""
