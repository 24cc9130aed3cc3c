"""LLaVA with high-level features: shared by finetune and evaluate."""
