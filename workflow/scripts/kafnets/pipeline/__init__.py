"""The workflow's own Python: the cells of the grid, their files, and the code that each depends on."""
