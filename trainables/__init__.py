"""One trial: data, labels, networks, training, checkpoints. Imports no torch, ray or wandb."""
