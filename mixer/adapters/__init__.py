"""LoRA adapters as they lie on disk, and what was measured about them."""
