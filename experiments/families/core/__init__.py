"""The core without training: rule tables, schematics, exponents."""
