"""Rows to token ids and labels, proven. Imports Transformers' tokenizers, and never torch."""
