"""Floor 4: accuracy of models and reduced precisions, measured on images."""
