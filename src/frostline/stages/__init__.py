"""The steps of a study, one file each: what a stage reads, does and leaves."""
