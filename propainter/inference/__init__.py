"""The published inference: four stages, and the interfaces where a variant steps in."""
