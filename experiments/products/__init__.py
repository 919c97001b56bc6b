"""From stored runs to tidy tables, pictures, verdicts and the committed reference."""
