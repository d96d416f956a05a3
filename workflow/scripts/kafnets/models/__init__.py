"""Networks for small images, built from names and stored as safetensors."""

from .create import create_model
from .saving import load_model, model_metadata, save_model
from .weights import load_state_dict, load_tensors

__all__ = ["create_model", "load_model", "load_state_dict", "load_tensors", "model_metadata", "save_model"]
