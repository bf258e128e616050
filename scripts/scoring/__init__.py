"""Batch scoring: sources of pictures, parts of the table, questions to the server."""
