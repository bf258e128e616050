"""Counting: cheap on the request's way, complete on the scrape's."""
