"""What the scale `paper` is, checked without training it: one generated page."""
