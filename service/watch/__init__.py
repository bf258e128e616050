"""Watching the statistics of live traffic: what is sampled, summed over the workers, and said of it."""
