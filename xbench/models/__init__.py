"""The classifiers, one file per family, and their small shipped weights."""
