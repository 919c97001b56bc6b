"""Declarations, training engine, store and command line of the reproduction."""
