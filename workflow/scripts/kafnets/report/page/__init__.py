"""The results page: one HTML file with the tables, figures, networks and study of a run."""
