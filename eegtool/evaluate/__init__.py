"""Answers of the fine-tuned model."""
