"""What each operator does to an affine that reaches it: absorbs it, lets it through, or refuses it."""
