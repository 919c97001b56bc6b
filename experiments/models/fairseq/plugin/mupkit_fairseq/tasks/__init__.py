"""What fairseq registers at start."""
