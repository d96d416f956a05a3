"""What a training minimises, one module for each method; their interface is in `base`."""
