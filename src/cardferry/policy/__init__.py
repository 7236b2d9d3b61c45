"""What is noted about the use of cards, and how secrets stay out of it."""
