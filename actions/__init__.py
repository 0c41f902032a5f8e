"""What an experiment may do."""
