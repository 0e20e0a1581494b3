"""Writing networks for use elsewhere."""
