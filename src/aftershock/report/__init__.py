"""The page and the files that people and CI read."""
