"""Training and translating with fairseq, in µP by a plug-in."""
