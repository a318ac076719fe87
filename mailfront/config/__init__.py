"""The configuration file: read, checked as a whole, compared, described. Every package brings its own settings."""
