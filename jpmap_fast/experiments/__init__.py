"""The figures and tables of the paper and of its comparisons, each made by one command."""
