"""Shapes of models that others published, as their config files give them, so that `python -m bench plan` counts
without a download. Standard library only.

Source: `config.json` in the models' own repositories on the Hugging Face hub; tests hold each to the number of
parameters that its card states or its weights have.
"""

from __future__ import annotations

from typing import Any

LLAMA_3_2_1B: dict[str, Any] = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 128_256,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "hidden_act": "silu",
    "max_position_embeddings": 131_072,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500_000.0,
    "rope_scaling": {
        "rope_type": "llama3",
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
    "tie_word_embeddings": True,
    "bos_token_id": 128_000,
    "eos_token_id": 128_001,
}
"""meta-llama/Llama-3.2-1B: 1,235,814,400 parameters, the tied head not counted twice."""

SMOLLM2_135M: dict[str, Any] = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 49_152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "head_dim": 64,
    "hidden_act": "silu",
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
    "rope_theta": 100_000.0,
    "tie_word_embeddings": True,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
"""HuggingFaceTB/SmolLM2-135M: 134,515,008 parameters."""

SD15_VAE: dict[str, Any] = {
    "_class_name": "AutoencoderKL",
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "block_out_channels": [128, 256, 512, 512],
    "layers_per_block": 2,
    "act_fn": "silu",
    "latent_channels": 4,
    "norm_num_groups": 32,
    "sample_size": 512,
    "scaling_factor": 0.18215,
}
"""Stable Diffusion 1.5's autoencoder: 83,653,863 parameters, pictures shrunk by 8 to 4 channels."""

LANGUAGE_MODELS = {
    "meta-llama/Llama-3.2-1B": LLAMA_3_2_1B,
    "meta-llama/Llama-3.2-1B-Instruct": LLAMA_3_2_1B,
    "unsloth/Llama-3.2-1B": LLAMA_3_2_1B,
    "HuggingFaceTB/SmolLM2-135M": SMOLLM2_135M,
    "HuggingFaceTB/SmolLM2-135M-Instruct": SMOLLM2_135M,
}
AUTOENCODERS = {
    "stable-diffusion-v1-5/stable-diffusion-v1-5:vae": SD15_VAE,
    "runwayml/stable-diffusion-v1-5:vae": SD15_VAE,
    "stabilityai/sd-vae-ft-mse": SD15_VAE,
}
"""Hub ids, with the folder inside the repository where there is one."""
