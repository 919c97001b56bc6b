"""Models that families share."""
