"""What an experiment may look at."""
