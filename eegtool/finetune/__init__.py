"""LoRA fine-tuning under DeepSpeed."""
