"""Stage instructions: instruction data sets become conversations, checked and split."""
