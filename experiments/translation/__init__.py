"""What the translation families share: configuration, task, products of searches."""
