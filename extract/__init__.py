"""Stage 1: videos -> frozen encoders -> feature cache. Importing this package loads nothing heavy."""
