"""Ways to another computer: each package carries bytes and knows nothing about cards."""
