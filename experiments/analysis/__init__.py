"""From tidy tables to pictures and verdicts. A change here redraws; no torch."""
