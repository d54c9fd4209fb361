"""The writer of decant-mini: XC-Cache's cross-attention on the frozen encoder, whose words are the passages' own."""
