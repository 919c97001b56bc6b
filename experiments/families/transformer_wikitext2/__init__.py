"""Transformer language models on WikiText-2."""
