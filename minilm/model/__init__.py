"""The model: attention, blocks, encoder and decoder; generation, sampling, beam search."""
