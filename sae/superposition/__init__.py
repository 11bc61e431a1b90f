"""How many features a layer carries: superposition as lossy compression."""
