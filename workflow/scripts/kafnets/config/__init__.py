"""The configuration: read, checked against its schema and against itself, and handed out in slices."""
