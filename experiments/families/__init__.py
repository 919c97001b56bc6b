"""One folder a family: what it declares, its task, its pictures and claims."""
