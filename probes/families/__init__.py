"""One table per architecture family: which module a site is."""
