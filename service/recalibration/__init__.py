"""New statistics for a served model: images in, a job in a process of its own, a proposal in the repository."""
