"""The Hugging Face Hub: a thin client over huggingface_hub, and what a push does in which order.

The library's own helpers hang for ever, loop for ever, follow symlinks and leave a public repository public. Here each
of these has its rule. Only stages, `doctor` and `delete` import what loads the library: the daemon stays without it.
"""
