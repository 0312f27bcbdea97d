"""What emerges when: the measures of the claims at every checkpoint of a run."""
