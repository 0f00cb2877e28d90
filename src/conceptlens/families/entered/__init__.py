"""One file per family that is served by its own blocks: what the arguments of its call and of its blocks mean."""
