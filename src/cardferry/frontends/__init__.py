"""What applications connect to."""
