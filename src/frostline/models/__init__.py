"""Networks: what a backbone's config builds, and the weights that it starts from."""
