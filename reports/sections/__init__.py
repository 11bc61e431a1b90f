"""One renderer per result kind."""
