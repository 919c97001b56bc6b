"""How one run is trained. A change here makes stored runs old."""
