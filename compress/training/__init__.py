"""Training: one loop for every stage that trains, with what it needs to be resumed anywhere."""
