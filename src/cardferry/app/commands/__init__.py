"""What the long-running commands do: one module each."""
