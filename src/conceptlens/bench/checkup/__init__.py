"""How good are maps on a model of one's own? Measured on collages of what it paints itself, without any data."""
