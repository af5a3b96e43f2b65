"""From text to ids and back: byte-level BPE (GPT-2) and WordPiece (BERT), and texts as rows of ids."""
