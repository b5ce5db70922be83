"""How far a result is from the fp32 reference and from the truth."""
