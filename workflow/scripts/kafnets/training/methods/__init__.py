"""How the images of a training step are perturbed, one module for each method."""
