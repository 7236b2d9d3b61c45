"""Where cards are: each module turns one kind of place into readers for the resource manager."""
