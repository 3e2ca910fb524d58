"""The suites: TOML files that say which metrics run on which images, classifier and methods."""
