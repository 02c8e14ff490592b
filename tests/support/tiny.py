"""Cards of tiny backbones, one of each kind, that are built with random weights."""

from __future__ import annotations

from pathotune.backbones.card import BackboneCard

SMALL = {"img_size": 64, "embed_dim": 48, "depth": 3, "num_heads": 3}
KINDS: dict[str, dict[str, object]] = {
    "plain": {"architecture": "vit_tiny_patch16_224", "prefix_tokens": 1, "arguments": SMALL},
    "registers": {
        "architecture": "vit_tiny_patch16_224",
        "prefix_tokens": 5,
        "pooling": "cls+mean_patch",
        "output_dim": 96,
        "arguments": {**SMALL, "reg_tokens": 4, "global_pool": "token"},
    },
    # Prefix tokens as foreign files have them: one register, or eight.
    "two": {
        "architecture": "vit_tiny_patch16_224",
        "prefix_tokens": 2,
        "arguments": {**SMALL, "reg_tokens": 1, "global_pool": "token"},
    },
    "nine": {
        "architecture": "vit_tiny_patch16_224",
        "prefix_tokens": 9,
        "arguments": {**SMALL, "reg_tokens": 8, "global_pool": "token"},
    },
    "rotary": {
        "architecture": "vit_small_patch16_dinov3",
        "prefix_tokens": 5,
        "arguments": {**SMALL, "global_pool": "token"},
    },
    "convolutional": {
        "architecture": "test_resnet",
        "prefix_tokens": 0,
        "arguments": {},
        "pooling": "gap",
        "embed_dim": 96,
        "output_dim": 96,
        "takes_prompts": False,
    },
    # The kinds below are for what works inside the blocks: other attention, other MLPs, other names.
    "tower": {
        "loader": "open_clip",
        "architecture": "VisionTransformer",
        "prefix_tokens": 1,
        "pooling": "head",
        "output_dim": 32,
        "arguments": {
            "image_size": 64,
            "patch_size": 16,
            "width": 48,
            "layers": 3,
            "heads": 3,
            "mlp_ratio": 2.0,
            "output_dim": 32,
            "quick_gelu": False,
        },
    },
    "gated": {
        "architecture": "vit_tiny_patch16_224",
        "prefix_tokens": 1,
        "arguments": {**SMALL, "mlp_ratio": 2, "mlp_layer": "SwiGLUPacked", "act_layer": "SiLU", "init_values": 1.0},
    },
    "hugging": {
        "loader": "transformers",
        "architecture": "Dinov2WithRegistersModel",
        "prefix_tokens": 5,
        "arguments": {
            "hidden_size": 48,
            "num_hidden_layers": 3,
            "num_attention_heads": 3,
            "mlp_ratio": 2,
            "image_size": 64,
            "patch_size": 16,
            "num_register_tokens": 4,
        },
    },
    "windowed": {
        "architecture": "swin_tiny_patch4_window7_224",
        "prefix_tokens": 0,
        "arguments": {"img_size": 64, "embed_dim": 24, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4},
        "pooling": "gap",
        "takes_prompts": False,
    },
}


def tiny_card(kind: str) -> BackboneCard:
    """The card of a tiny model of that kind: 64 px images, 16 px patches, tokens 48 wide, 3 blocks."""
    facts: dict[str, object] = {
        "name": f"tiny-{kind}",
        "title": f"Tiny {kind}",
        "kind": "tile",
        "loader": "timm",
        "embed_dim": 48,
        "output_dim": 48,
        "depth": 3,
        "num_heads": 3,
        "patch_size": 16,
        "image_size": 64,
        "tile_px": 64,
        "mpp": 0.5,
        "mean": (0.5, 0.5, 0.5),
        "std": (0.5, 0.5, 0.5),
        "pooling": "cls",
        "licence": "CC0-1.0",
        "takes_prompts": True,
        **KINDS[kind],
    }
    return BackboneCard(**facts)  # type: ignore[arg-type]
