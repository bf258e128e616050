"""What a person runs: train, export. The only room that knows Keras."""
