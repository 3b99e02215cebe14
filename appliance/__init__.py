"""A fine-tuning appliance for one machine: a file goes in, a QLoRA adapter comes out."""

__version__ = "0.1.0"
