"""Records in, tables and plots out."""
