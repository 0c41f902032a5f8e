"""How an agent gets to a node, and nothing else."""
