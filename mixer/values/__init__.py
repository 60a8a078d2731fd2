"""What a person sets: mixes, sampling parameters, steering. Plain values, standard library only."""
