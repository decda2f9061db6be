"""The HTTP API: paths and words of HTTP over the services."""
