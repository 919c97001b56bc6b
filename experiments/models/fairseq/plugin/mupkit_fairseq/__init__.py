"""A plug-in for fairseq's --user-dir; fairseq imports its `models` and `tasks` by itself."""
