"""Circuits as data: their files, links, the search for them, and random ones of the same shape."""
