"""`experiment=evaluate`: quality of variants against the truth on a set of videos."""
