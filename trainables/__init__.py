"""One trial: data, labels, networks, training, checkpoints. Imports no torch, no ray and no wandb."""
