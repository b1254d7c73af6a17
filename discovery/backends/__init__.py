"""Models behind one Protocol and one dict per role; heavy imports stay inside the loaders."""
