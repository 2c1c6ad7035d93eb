"""Checks of any TGI endpoint, and of the client with it: ``segue check``."""
