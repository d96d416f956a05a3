"""Detectors of adversarial images, and the attacks of those who know them."""
