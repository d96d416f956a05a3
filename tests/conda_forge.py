"""The conda environments of envs/, and what is known of the versions of their packages."""

from tests.repository import ROOT

ENVIRONMENTS = sorted((ROOT / "envs").glob("*.yaml"))

# What conda-forge has for linux-64: version, when it was looked up, and how.
RECIPE = "the recipe in conda-forge's feedstock, as a copy of it had it"
SEEN = "c-compiler of the same recipe, in a list of an environment made from conda-forge"
NEVER = "none known, or none as new; that this pip section works was seen with conda 26.7"
CONDA_FORGE = {
    "python": ("3.12", "2026-11-27", RECIPE),  # those of the others build for it
    "pytorch": ("2.11.0", "2026-11-27", RECIPE),
    "torchvision": ("0.26.0", "2026-11-27", RECIPE),
    "safetensors": ("0.8.0", "2026-11-27", RECIPE),
    "scikit-learn": ("1.8.0", "2026-11-27", RECIPE),  # 1.9.1 not found there
    "numpy": ("2.4.6", "2026-11-27", RECIPE),
    "scipy": ("1.17.1", "2026-11-27", RECIPE),
    "statsmodels": ("0.15.0", "2026-11-27", RECIPE),
    "pandas": ("3.0.3", "2026-11-27", RECIPE),  # 3.1.1 not found there
    "tqdm": ("4.70.0", "2026-11-27", RECIPE),  # 4.70.1 not found there
    "pyyaml": ("6.0.3", "2026-11-27", RECIPE),
    "matplotlib-base": ("3.11.0", "2026-11-27", RECIPE),  # 3.11.2 not found there
    "cxx-compiler": ("1.11.0", "2026-11-27", SEEN),
}
# What it lacks: the newest that it has, or None. For these there is pip.
NOT_IN_CONDA_FORGE = {
    "foolbox": ("3.3.1", "2026-11", NEVER),
    "pyautoattack": (None, "2026-11", NEVER),
}
# Names on PyPI, where these are others there.
PYPI = {"pytorch": "torch", "matplotlib-base": "matplotlib"}
NOT_PYTHON = {"python", "cxx-compiler", "pip"}
