"""What every approach reuses: the latent codec, diffusion, the language model, kernels and shipped weights."""
