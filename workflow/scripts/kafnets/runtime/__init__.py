"""What every step needs of the machine: files, locks, devices, checkpoints, signals, command lines."""
