"""Making the shipped weights: the VAE, the language model and the CLIP of a preset. Imports no torch."""
