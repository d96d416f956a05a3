"""The networks' layers computed several at a time, for training."""
