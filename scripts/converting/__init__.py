"""From a Keras network to a bundle: trace, canonical form, fold, proof, files."""
