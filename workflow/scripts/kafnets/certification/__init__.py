"""Proofs that no perturbation of an image within a radius changes a network's answer."""
