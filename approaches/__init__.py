"""Ways of integrating image diffusion with a language model, behind one interface."""
