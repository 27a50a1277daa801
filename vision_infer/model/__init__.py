"""Floor 2: convert raw models to deployment graphs, and find models by name."""
