"""Writing networks: the output folder, a run's folder, and what other libraries read."""
