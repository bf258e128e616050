"""Load, floors and figures: how fast the service is, beside what bounds it."""
