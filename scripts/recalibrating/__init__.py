"""From a bundle and unlabelled images to a new version: measure, guard, fold, prove, write. Needs no Keras."""
