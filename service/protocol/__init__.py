"""The wire formats: bytes to arrays and back, knowing no HTTP."""
