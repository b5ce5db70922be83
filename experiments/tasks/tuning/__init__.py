"""`experiment=tune`: search the combination of options that fits bounds and is fastest."""
