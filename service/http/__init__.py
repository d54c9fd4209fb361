"""The HTTP doors: OpenAI-shaped and TEI-shaped routes, search, metrics; one FastAPI application."""
