"""What a recipe means on this machine and this dataset, computed before anything is loaded. Pure."""
