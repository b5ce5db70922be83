"""The networks (docs/model.md, sections 1 to 3)."""
