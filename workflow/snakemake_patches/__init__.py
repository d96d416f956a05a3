"""What is changed in Snakemake and in its SLURM plugin, each for one version, while a Snakefile is read."""
