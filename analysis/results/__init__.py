"""Figures of variants: pooled records, intervals, pairs."""
