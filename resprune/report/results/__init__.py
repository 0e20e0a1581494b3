"""Results as JSON objects; their keys are an interface and are only ever added to."""
