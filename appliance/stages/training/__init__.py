"""The only code that imports torch, transformers, trl or unsloth. Never imported by the daemon."""
