"""What the fold is worth: networks to try it on, how far it is from the truth, and how much faster the result runs."""
