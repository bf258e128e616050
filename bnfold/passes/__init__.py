"""The passes of the pipeline, each a class whose docstring numbers its legality rules."""
