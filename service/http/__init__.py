"""HTTP: routes, bodies and errors around the data plane."""
