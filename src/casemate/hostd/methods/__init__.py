"""The functions behind the served methods, and one table of them per subject."""
