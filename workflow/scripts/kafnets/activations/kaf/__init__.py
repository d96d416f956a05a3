"""Kernel activation functions (KAF): the layer, the formula, and what computes it fast."""
