"""Scenarios in which a server must lose nothing: its end, new versions, dead workers, too much load, a long life."""
