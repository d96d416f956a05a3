"""Certificates: bounds of what a network can answer on a whole set of inputs, and training for them."""
