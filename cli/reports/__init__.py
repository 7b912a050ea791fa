"""Reports for people who were not there: one file that tells an experiment's story."""
