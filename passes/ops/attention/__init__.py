"""Rules of fused attention and of rotary embeddings, by heads and the channels of each."""
