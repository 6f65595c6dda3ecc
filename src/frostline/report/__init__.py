"""From the files that the stages leave to what a person reads: numbers, words, pictures and a page."""
