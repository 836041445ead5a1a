"""One question each, from training to a table of claims."""
