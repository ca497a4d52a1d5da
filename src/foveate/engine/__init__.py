"""Runs a plan inside a stock transformers model, and leaves no trace."""
